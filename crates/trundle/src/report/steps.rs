//! Lines and areas that go in steps: a count holds until it changes, so nothing is drawn between two of them.

use std::fmt::Write as _;

use super::markup::px;

/// `points` are (x, y), in order of x; each holds until the next, the last until `right`.
pub fn line(points: &[(f64, f64)], right: f64) -> String {
    let mut path = String::new();
    for (n, (x, y)) in points.iter().enumerate() {
        let _ = match n {
            0 => write!(path, "M{} {}", px(*x), px(*y)),
            _ => write!(path, "H{}V{}", px(*x), px(*y)),
        };
    }
    if !points.is_empty() {
        let _ = write!(path, "H{}", px(right));
    }
    path
}

/// The area between two step lines. `points` are (x, lower y, upper y).
pub fn area(points: &[(f64, f64, f64)], right: f64) -> String {
    let upper: Vec<_> = points.iter().map(|(x, _, upper)| (*x, *upper)).collect();
    let mut path = line(&upper, right);
    for (x, lower, _) in points.iter().rev() {
        let _ = write!(path, "V{}H{}", px(*lower), px(*x));
    }
    if !points.is_empty() {
        path.push('Z');
    }
    path
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_count_holds_until_it_changes() {
        assert_eq!(line(&[(0.0, 8.0), (10.0, 7.0), (20.0, 8.0)], 30.0), "M0 8H10V7H20V8H30");
        assert_eq!(line(&[], 30.0), "");
    }

    #[test]
    fn an_area_comes_back_along_its_lower_edge() {
        assert_eq!(area(&[(0.0, 9.0, 5.0), (10.0, 8.0, 5.0)], 20.0), "M0 5H10V5H20V8H10V9H0Z");
        assert_eq!(area(&[], 30.0), "");
    }
}
