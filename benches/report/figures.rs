//! What criterion left of its last run, and what each figure is to be compared with.

use std::collections::BTreeMap;
use std::error::Error;
use std::fs;
use std::path::Path;

use serde_json::Value;

/// How the name of a figure ends that others of its subject are compared with.
const MEASURES: [(&str, &str); 4] = [
    (", floor", "% of the floor"),
    (", its calls alone", "% in the module"),
    (", one by one", "× one by one"),
    (", des crate", "× the des crate"),
];

/// One measured function. Its subject is its name up to the first comma.
#[allow(dead_code, reason = "the bench prints medians alone")]
pub(crate) struct Figure {
    pub(crate) name: String,
    pub(crate) median_ns: f64,
    pub(crate) low_ns: f64,
    pub(crate) high_ns: f64,
}

impl Figure {
    /// How the figure stands to the measure of its subject in the same group: as so many times as fast.
    pub(crate) fn against(&self, group: &[Self]) -> Option<String> {
        let subject = self.name.split(',').next()?;
        let of = |(ending, words): &(&str, &'static str)| {
            let measure = group.iter().find(|figure| figure.name == format!("{subject}{ending}"))?;
            Some((measure, *words))
        };
        let (measure, words) = MEASURES.iter().find_map(of)?;
        let times = measure.median_ns / self.median_ns;
        (measure.name != self.name).then(|| match words.strip_prefix('%') {
            Some(_) => format!("{:.0} {words}", 100.0 * times),
            None => format!("{times:.1} {words}"),
        })
    }
}

/// The figures below criterion's folder, by group.
pub(crate) fn figures(criterion: &Path) -> Result<BTreeMap<String, Vec<Figure>>, Box<dyn Error>> {
    let mut groups: BTreeMap<String, Vec<Figure>> = BTreeMap::new();
    let mut folders = vec![criterion.to_owned()];
    while let Some(folder) = folders.pop() {
        for path in fs::read_dir(&folder)?.map(|entry| entry.map(|entry| entry.path())) {
            let path = path?;
            if path.ends_with("new") {
                let about: Value = serde_json::from_str(&fs::read_to_string(path.join("benchmark.json"))?)?;
                let estimates: Value = serde_json::from_str(&fs::read_to_string(path.join("estimates.json"))?)?;
                let median = &estimates["median"];
                let number = |value: &Value| value.as_f64().unwrap_or(f64::NAN);
                let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
                groups.entry(text(&about["group_id"])).or_default().push(Figure {
                    name: text(&about["function_id"]),
                    median_ns: number(&median["point_estimate"]),
                    low_ns: number(&median["confidence_interval"]["lower_bound"]),
                    high_ns: number(&median["confidence_interval"]["upper_bound"]),
                });
            } else if path.is_dir() {
                folders.push(path);
            }
        }
    }
    groups.values_mut().for_each(|figures| figures.sort_by(|a, b| a.name.cmp(&b.name)));
    Ok(groups)
}
