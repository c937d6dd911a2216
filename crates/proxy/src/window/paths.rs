//! Paths of which a table names a few, some with a `*` at their end.

/// Checked as the table was.
#[derive(Debug, Default)]
pub struct Paths(Vec<(Box<str>, bool)>);

impl Paths {
    pub fn new(written: &[String]) -> Self {
        let path = |written: &String| match written.strip_suffix('*') {
            Some(stem) => (stem.into(), true),
            None => (written.as_str().into(), false),
        };
        Self(written.iter().map(path).collect())
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    #[must_use]
    pub fn cover(&self, path: &str) -> bool {
        self.0
            .iter()
            .any(|(stem, is_open)| if *is_open { path.starts_with(&**stem) } else { *path == **stem })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_star_stands_for_all_that_begins_so() {
        let paths = Paths::new(&["/assets/*".to_owned(), "/app.js".to_owned()]);
        for covered in ["/assets/", "/assets/a.js", "/assets/a/b", "/app.js"] {
            assert!(paths.cover(covered), "{covered}");
        }
        for other in ["/", "/assets", "/app.jsx", "/x/assets/a", "/app.js/"] {
            assert!(!paths.cover(other), "{other}");
        }
        assert!(!Paths::default().cover("/"));
    }
}
