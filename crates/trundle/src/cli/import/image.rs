//! The name of an image: its tag is the version. Images themselves are not run here.

use trundle_core::ids::VersionLabel;

use super::draft::{Draft, quoted};
use crate::config::source::shown;

pub fn version(draft: &mut Draft, image: Option<&str>) {
    let Some(image) = image else { return };
    match tag(image) {
        Some(label) => {
            draft.keep(format!("image {}", shown(image)), format!("version = {}", quoted(label.as_str())));
            draft.version = label.as_str().to_owned();
        }
        None => draft.drop(
            format!("image {}", shown(image)),
            "it has no tag that could be the version: \"1.0\" is written",
        ),
    }
}

/// `3.1` of `registry:5000/shop/web:3.1@sha256:…`
fn tag(image: &str) -> Option<VersionLabel> {
    let named = image.split('@').next().unwrap_or(image);
    let (_, tag) = named.rsplit('/').next().unwrap_or(named).split_once(':')?;
    tag.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tag_is_the_version() {
        let check = |image: &str, expect: Option<&str>| {
            assert_eq!(tag(image).as_ref().map(VersionLabel::as_str), expect, "{image}");
        };
        check("web:3.1", Some("3.1"));
        check("registry:5000/shop/web:v3.1-rc.1@sha256:abcd", Some("v3.1-rc.1"));
        check("registry:5000/shop/web", None);
        check("web@sha256:abcd", None);
        check("web:${TAG}", None);
        check("web:", None);
    }
}
