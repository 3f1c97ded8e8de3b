//! A scrape of the program's metrics.

use std::fmt;

/// One scrape, as lines of the Prometheus text format.
#[derive(Clone)]
pub struct Metrics {
    pub text: String,
}

impl Metrics {
    /// The sum over all series of `name` whose labels contain every `(key, value)`.
    pub fn sum(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        let wanted: Vec<String> = labels.iter().map(|(k, v)| format!("{k}=\"{v}\"")).collect();
        let series = self.text.lines().filter(|line| !line.starts_with('#')).filter_map(|line| {
            let (series, value) = line.rsplit_once(' ')?;
            let (found, rest) = series.split_once('{').unwrap_or((series, ""));
            let matches = found == name && wanted.iter().all(|label| rest.contains(label.as_str()));
            matches.then(|| value.parse::<f64>().unwrap())
        });
        series.sum()
    }

    /// The conservation law, per tenant and signal: every line of the books that does not balance.
    pub fn unbalanced(&self) -> Vec<String> {
        let labels = self.text.lines().filter(|l| l.starts_with("tollgate_received_items_total{"));
        let copies = self.text.lines().filter(|l| l.starts_with("tollgate_copied_items_total{"));
        let mut wrong = Vec::new();
        for line in labels.chain(copies) {
            let of = |key: &str| line.split(&format!("{key}=\"")).nth(1).unwrap().split('"').next().unwrap();
            let labels = [("tenant", of("tenant")), ("signal", of("signal"))];
            let sum = |name: &str| self.sum(name, &labels);
            let came = sum("tollgate_received_items_total")
                + sum("tollgate_copied_items_total")
                + sum("tollgate_recovered_items_total");
            let went = sum("tollgate_refused_items_total")
                + sum("tollgate_sampled_out_items_total")
                + sum("tollgate_sent_items_total")
                + sum("tollgate_dropped_items_total")
                + sum("tollgate_stored_items_total")
                + sum("tollgate_queued_items");
            if came != went {
                wrong.push(format!("{labels:?}: {came} came, {went} went"));
            }
        }
        wrong
    }
}

impl fmt::Debug for Metrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}
