//! The HTML report: well-formed and harmless for all content, with the same content in HTML, Markdown and JSON.

use mm_toxic_qa::html_report::{
    Answer, AnswerPair, Answers, AurocDistribution, HtmlReport, LayerAttribution, ModalityAttribution, NullDistribution, SiteSuppression,
};
use mm_toxic_qa::metrics::{Harm, HarmfulRate};
use mm_toxic_qa::{Condition, Provenance, Report, Run};
use proptest::prelude::*;

/// Checks that tags are balanced, attributes are quoted, and text has neither a bare `<` nor an unknown entity. Returns the names of the
/// elements.
fn check(html: &str) -> Vec<String> {
    let body = html.strip_prefix("<!doctype html>").unwrap();
    let (before, style) = body.split_once("<style>").unwrap();
    let (style, after) = style.split_once("</style>").unwrap();
    assert!(!style.contains('<'));
    let body = format!("{before}{after}");
    let (mut rest, mut open, mut names) = (body.as_str(), Vec::new(), Vec::new());
    while let Some(start) = rest.find('<') {
        let (text, tag) = rest.split_at(start);
        check_text(text);
        let end = tag.find('>').unwrap();
        assert!(!tag[1..end].contains('<'), "a bare < before {tag:.60}");
        let (inside, after) = (&tag[1..end], &tag[end + 1..]);
        rest = after;
        if let Some(name) = inside.strip_prefix('/') {
            assert_eq!(open.pop().as_deref(), Some(name), "before {after:.60}");
            continue;
        }
        let name: String = inside.chars().take_while(char::is_ascii_alphanumeric).collect();
        // Outside of quotes there are only names, spaces and equals signs.
        let parts: Vec<&str> = inside.split('"').collect();
        assert_eq!(parts.len() % 2, 1, "{inside}");
        for (n, part) in parts.iter().enumerate() {
            let allowed = |c: char| c.is_ascii_alphanumeric() || " -=/".contains(c);
            assert!(n % 2 == 1 || part.chars().all(allowed) && !part.trim_start().starts_with("on"), "{inside}");
            check_text(part);
        }
        names.push(name.clone());
        if !["meta", "img"].contains(&name.as_str()) && !inside.ends_with('/') {
            open.push(name);
        }
    }
    check_text(rest);
    assert_eq!(open, [""; 0]);
    names
}

fn check_text(text: &str) {
    for after in text.split('&').skip(1) {
        let (entity, _) = after.split_once(';').unwrap_or_else(|| panic!("a bare & before {after:.40}"));
        assert!(["amp", "lt", "gt", "quot", "#39", "#x27", "#x2f"].contains(&entity), "{entity}");
    }
}

fn run(name: &str, category: &str, harm: f64, perplexity: f64) -> Run {
    let rate = |rate| HarmfulRate { harmful_rate: Some(rate), ci95: Some([0.875 * rate, 1.125 * rate]), n: 100, n_unparsed: 0 };
    let by_category = [("T".to_owned(), rate(harm)), (category.to_owned(), rate(harm))];
    Run {
        name: name.to_owned(),
        n_neurons: 10,
        n_suppressed: 2.5,
        standard: Harm { all: rate(harm), by_category: by_category.into() },
        adversarial: Harm { all: rate(1.5 * harm), ..Harm::default() },
        help_standard: Some(0.5),
        perplexity: Some(perplexity),
        vqa_accuracy: Some(0.75),
        divergence: (name != "none").then_some(0.0078125),
        ..Run::default()
    }
}

/// A page with every section, and `text` in every place for text from outside.
fn page(text: &str) -> HtmlReport {
    let provenance = Provenance {
        model: text.to_owned(),
        split: text.to_owned(),
        judge: text.to_owned(),
        source: text.to_owned(),
        generation: serde_json::json!({text: text}),
        calibration: serde_json::json!([text, "long".repeat(40)]),
        skipped: vec![sgm_core::SkippedSample { id: text.to_owned(), reason: text.to_owned() }],
    };
    let runs = vec![run("none", text, 0.5, 1.25), run(text, text, 0.125, 1.5), run("sgm", text, 0.25, 1.3125)];
    let report = Report::new(provenance, runs);
    let answer = |harmful| Answer { text: text.to_owned(), harmful };
    let pair = AnswerPair {
        id: text.to_owned(),
        condition: Condition::Adversarial,
        category: text.to_owned(),
        prompt: text.to_owned(),
        picture: Some(text.to_owned()),
        before: answer(Some(true)),
        after: answer(None),
    };
    let shown = AnswerPair { picture: Some("data:image/png;base64,AAAA".to_owned()), ..pair.clone() };
    let site = |layer, suppressed| SiteSuppression {
        layer,
        projection: text.to_owned(),
        neurons: 4,
        suppressed,
        mean_scale: (suppressed > 0).then_some(0.5),
    };
    HtmlReport {
        title: text.to_owned(),
        tuning: Some(report.clone()),
        sites: vec![site(0, 0), site(3, 2)],
        auroc: Some(AurocDistribution {
            about: text.to_owned(),
            shortcuts: [("prompt".to_owned(), 0.9)].into(),
            observed: vec![0, 3, 5, 1],
            null: Some(NullDistribution { counts: vec![1, 90, 92, 2], permutations: 20, threshold: 0.7, above: 1 }),
        }),
        attribution: Some(ModalityAttribution {
            poolings: [text.to_owned(), text.to_owned(), text.to_owned()],
            layers: vec![LayerAttribution { layer: 3, text: 1, image: 2, both: 0, cross_modal: 5 }],
        }),
        answers: Some(Answers { after: text.to_owned(), pairs: vec![pair, shown], ..Answers::default() }),
        files: [(text.to_owned(), text.to_owned())].into(),
        ..HtmlReport::new(report)
    }
}

const SECTIONS: [&str; 8] = ["summary", "harm", "trade-off", "experts", "auroc", "attribution", "answers", "provenance"];

fn sections(html: &str) -> Vec<&str> {
    html.split("<section id=\"").skip(1).filter_map(|after| after.split('"').next()).collect()
}

#[test]
fn a_hostile_text_has_no_effect() {
    let hostile = "</style></title><script>alert(1)</script>\"><img src=x onerror='alert(1)'>&copy;{{ 7777*7777 }}{% raw %}\u{0}\u{7}";
    let html = page(hostile).html().unwrap();
    let names = check(&html);
    assert!(!names.iter().any(|name| name == "script"));
    assert_eq!(names.iter().filter(|name| *name == "img").count(), 1, "the picture that is one");
    assert!(!html.contains("<script") && html.contains("{{ 7777*7777 }}") && !html.contains("60481729"), "{html}");
    // The page loads nothing.
    assert!(!html.contains("http://") && !html.contains("https://") && !html.contains("url("));
    assert!(!page(hostile).markdown().replace("    ", "\u{1}").lines().any(|line| !line.contains('\u{1}') && line.contains("<script")));
}

#[test]
fn sections_need_their_data() {
    assert_eq!(sections(&page("x").html().unwrap()), SECTIONS);
    assert!(page("x").html().unwrap().contains("prompt (AUROC 0.900)"), "a warning of what gives labels away");
    let markdown = page("x").markdown();
    assert_eq!(markdown.lines().filter(|line| line.starts_with("## ")).count(), SECTIONS.len());

    let bare = HtmlReport::new(Report::new(Provenance::default(), vec![]));
    assert_eq!(sections(&bare.html().unwrap()), ["summary", "provenance"]);
    check(&bare.html().unwrap());

    let mut no_tuning = page("x");
    no_tuning.tuning = None;
    assert_eq!(sections(&no_tuning.html().unwrap()), SECTIONS, "the report's own runs are shown");
    no_tuning.report.runs.truncate(2);
    assert!(!sections(&no_tuning.html().unwrap()).contains(&"trade-off"), "two runs are no trade-off");
}

#[test]
fn numbers_that_are_not_finite_are_not_drawn() {
    let mut page = page("x");
    for run in &mut page.report.runs {
        run.perplexity = Some(f64::NAN);
        run.standard.all.harmful_rate = Some(f64::INFINITY);
        run.adversarial.all.ci95 = Some([f64::NAN, f64::NEG_INFINITY]);
    }
    page.sites[1].mean_scale = Some(f64::NAN);
    page.tuning = None;
    let html = page.html().unwrap();
    check(&html);
    let drawn = html.split("<svg").skip(1).map(|svg| svg.split("</svg>").next().unwrap_or_default());
    for svg in drawn {
        for shape in svg.split('<').skip(1) {
            let attributes = shape.split('>').next().unwrap_or_default();
            assert!(!attributes.contains("NaN") && !attributes.contains("inf"), "{shape}");
        }
    }
}

#[test]
fn json_survives_a_round_trip_and_equal_pages_have_equal_text() {
    // The numbers are sums of few powers of two: serde_json may read others one unit in the last place off.
    let page = page("x");
    let json = serde_json::to_string(&page).unwrap();
    let back: HtmlReport = serde_json::from_str(&json).unwrap();
    assert_eq!(back, page);
    assert_eq!(back.html().unwrap(), page.html().unwrap());
    let bare = HtmlReport::new(page.report.clone());
    let keys: Vec<String> = serde_json::to_value(&bare).unwrap().as_object().unwrap().keys().cloned().collect();
    assert_eq!(keys, ["budget", "report", "title"], "what is absent is not in the file");
}

/// The cells of the first table of a section.
fn cells(text: &str, row: &str) -> Vec<String> {
    let line = text.lines().find(|line| line.starts_with(&format!("| {row} |"))).unwrap();
    line.trim_matches('|').split(" | ").map(|cell| cell.replace("**", "").trim().to_owned()).collect()
}

#[test]
fn markdown_and_html_have_the_same_cells() {
    let page = page("x");
    let (html, markdown) = (page.html().unwrap(), page.markdown());
    for cell in cells(&markdown, "sgm") {
        let (text, detail) = cell.split_once(' ').filter(|(_, d)| d.starts_with(['[', '('])).unwrap_or((&cell, ""));
        let plain = format!(">{text}</td>");
        assert!(html.contains(&plain) || html.contains(&format!(">{text} <small>{detail}</small>")) || cell == "sgm", "{cell}");
    }
    assert!(markdown.contains("25.0 [21.9, 28.1]"), "{markdown}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn any_text_makes_a_well_formed_page(text in prop_oneof!["\\PC{0,40}", "[<>&\"'/a-z={}%! -]{0,40}", any::<String>()]) {
        let html = page(&text).html().unwrap();
        let names = check(&html);
        prop_assert!(!names.iter().any(|name| name == "script"));
        prop_assert_eq!(names.iter().filter(|name| *name == "img").count(), 1);
        page(&text).markdown();
    }
}
