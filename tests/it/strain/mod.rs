//! The program at its limits and past them: four times the load, ends at full load, destinations that are slow or dead,
//! clocks that jump.
//!
//! As in `edge`, counts are short by default and long with TOLLGATE_LONG=1 (`./test --long strain`), and figures fail
//! nothing (`./test --figures strain`).

mod clock;
mod drain;
mod overload;
mod slow;

/// Prints a figure that is good up to its bound.
fn figure(name: &str, value: f64, bound: f64) {
    crate::harness::figure(&format!("strain.{name}"), value, bound);
}
