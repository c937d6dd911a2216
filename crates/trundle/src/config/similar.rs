//! "Did you mean": the name that is nearest to what was written.

use std::fs;
use std::path::Path;

/// A folder with more entries than this is not searched to its end.
const ENTRIES_MAX: usize = 5_000;

/// The nearest of `names`, if one is near: about one slip in three letters.
pub fn nearest<'a>(written: &str, names: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let bearable = (written.chars().count() / 3).max(1);
    names
        .into_iter()
        .map(|name| (strsim::damerau_levenshtein(written, name), name))
        .filter(|(distance, name)| (1..=bearable).contains(distance) && !name.is_empty())
        .min()
        .map(|(_, name)| name)
}

/// The entry of `folder` with the nearest name, of those that `accepts` takes.
pub fn nearest_in(folder: &Path, written: &str, accepts: impl Fn(&Path) -> bool) -> Option<String> {
    let entries = fs::read_dir(folder).ok()?.take(ENTRIES_MAX).flatten();
    let names: Vec<String> = entries
        .filter_map(|entry| entry.file_name().into_string().ok())
        .filter(|name| name.chars().all(|c| !c.is_control()))
        .collect();
    let mut left: Vec<&str> = names.iter().map(String::as_str).collect();
    // A near name that is not acceptable must not hide the next one.
    while let Some(name) = nearest(written, left.iter().copied()) {
        if accepts(&folder.join(name)) {
            return Some(name.to_owned());
        }
        left.retain(|other| *other != name);
    }
    None
}
