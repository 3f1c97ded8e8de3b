//! Files put aside: `spans.json` becomes `spans-2026-01-31T08-00-00.000.json`, by the time in UTC.

use std::io;
use std::path::{Path, PathBuf};

use jiff::{Span, Timestamp, Unit};

use crate::config::exporter::Rotation;

/// Sorts as text in the order of time, and has no character that a file system minds.
const FORMAT: &str = "%Y-%m-%dT%H-%M-%S%.3f";

/// Renames the file by the time; two in one millisecond get different names.
pub(super) fn put_aside(path: &Path) -> io::Result<()> {
    let mut time = Timestamp::now().round(Unit::Millisecond).map_err(io::Error::other)?;
    loop {
        let target = named(path, time);
        if !target.try_exists()? {
            return match std::fs::rename(path, target) {
                // Put aside before, and then no new file could be opened.
                Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
                renamed => renamed,
            };
        }
        time = time.checked_add(Span::new().milliseconds(1)).map_err(io::Error::other)?;
    }
}

fn named(path: &Path, time: Timestamp) -> PathBuf {
    let (before, after) = frame(path);
    path.with_file_name(format!("{before}{}{after}", time.strftime(FORMAT)))
}

/// What stands before and after the time.
fn frame(path: &Path) -> (String, String) {
    let text = |part: Option<&std::ffi::OsStr>| part.unwrap_or_default().to_string_lossy().into_owned();
    let after = match path.extension() {
        Some(extension) => format!(".{}", extension.to_string_lossy()),
        None => String::new(),
    };
    (format!("{}-", text(path.file_stem())), after)
}

/// Deletes files put aside that are too many or too old.
pub(super) fn clean_up(path: &Path, rotation: &Rotation) -> io::Result<()> {
    let (before, after) = frame(path);
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let mut aside = Vec::new();
    for entry in std::fs::read_dir(folder)? {
        let name = entry?.file_name().to_string_lossy().into_owned();
        let time = name.strip_prefix(&before).and_then(|rest| rest.strip_suffix(&after));
        // Only names that carry a time are ours.
        if let Some(time) = time.and_then(|text| jiff::civil::DateTime::strptime(FORMAT, text).ok()) {
            aside.push((time, folder.join(name)));
        }
    }
    aside.sort();
    let now = Timestamp::now().to_zoned(jiff::tz::TimeZone::UTC).datetime();
    let days = i64::try_from(rotation.max_days).unwrap_or(i64::MAX).min(36_500);
    let oldest = now.checked_sub(Span::new().days(days)).map_err(io::Error::other)?;
    let keep = if rotation.max_backups == 0 { usize::MAX } else { rotation.max_backups };
    let excess = aside.len().saturating_sub(keep);
    for (i, (time, file)) in aside.iter().enumerate() {
        if i < excess || (days > 0 && *time < oldest) {
            std::fs::remove_file(file)?;
        }
    }
    Ok(())
}
