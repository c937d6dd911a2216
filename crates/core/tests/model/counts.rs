//! How many states each search found when it was last looked at. Fewer of them mean that the search sees less.

use crate::search::Found;

const RECORDED: &str = include_str!("counts.txt");

/// Every app of the routine search has a line, and none has lost more than a tenth of its states.
pub fn compare(found: &[Found]) {
    let mut problems = Vec::new();
    for line in RECORDED.lines() {
        let app = line.split_once(" states: ").map(|(_, app)| app);
        if !found.iter().any(|one| Some(one.app.to_string().as_str()) == app) {
            problems.push(format!(
                "\"{line}\" was searched once and is not any more: that too needs a decision record"
            ));
        }
    }
    for one in found {
        let name = one.app.to_string();
        let line =
            RECORDED.lines().find_map(|line| line.split_once(" states: ").filter(|(_, app)| *app == name));
        match line.and_then(|(count, _)| count.parse::<usize>().ok()) {
            None => problems.push(format!("counts.txt has no line \"{} states: {name}\"", one.states)),
            Some(before) if one.states * 10 < before * 9 => problems.push(format!(
                "{name}: {} states, and there were {before}. What the search no longer sees needs a decision record in \
                 docs/decisions, which says why; then change the line to \"{} states: {name}\"",
                one.states, one.states
            )),
            Some(_) => {}
        }
    }
    assert!(problems.is_empty(), "crates/core/tests/model/counts.txt:\n{}", problems.join("\n"));
}
