//! A few shapes of SVG for charts within a page; colours come from the classes of its style sheet.

use std::fmt::Write;

/// The font size of charts; the style sheet has the same number.
pub(super) const FONT: f64 = 12.0;

/// A drawing under construction. Shapes at places that are not finite are left out.
#[derive(Debug)]
pub(super) struct Svg {
    text: String,
}

/// The position of a text relative to its place.
#[derive(Clone, Copy, Debug)]
pub(super) enum Anchor {
    Start,
    Middle,
    End,
}

impl Svg {
    /// An empty drawing; screen readers read the title.
    pub(super) fn new([width, height]: [f64; 2], title: &str) -> Self {
        let (width, height) = (number(width), number(height));
        let title = escape(title);
        // The style sheet bounds the width, so that letters stay legible.
        let text = format!("<svg viewBox=\"0 0 {width} {height}\" style=\"--width:{width}px\" role=\"img\" aria-label=\"{title}\">");
        Self { text }
    }

    pub(super) fn line(&mut self, class: &str, [x1, y1]: [f64; 2], [x2, y2]: [f64; 2]) {
        self.shape("line", class, &[("x1", x1), ("y1", y1), ("x2", x2), ("y2", y2)], None);
    }

    /// A dot with a tooltip.
    pub(super) fn dot(&mut self, class: &str, [x, y]: [f64; 2], radius: f64, tip: &str) {
        self.shape("circle", class, &[("cx", x), ("cy", y), ("r", radius)], Some(("title", tip)));
    }

    /// A rectangle from its upper left corner; `opacity` is from 0 to 1.
    pub(super) fn rect(&mut self, class: &str, [x, y]: [f64; 2], [width, height]: [f64; 2], opacity: f64, tip: &str) {
        let numbers = [("x", x), ("y", y), ("width", width.max(0.0)), ("height", height.max(0.0)), ("fill-opacity", opacity)];
        self.shape("rect", class, &numbers, Some(("title", tip)));
    }

    /// A line through several points.
    pub(super) fn path(&mut self, class: &str, points: &[[f64; 2]]) {
        let finite = points.iter().filter(|p| p.iter().all(|c| c.is_finite()));
        let points: Vec<String> = finite.map(|[x, y]| format!("{},{}", number(*x), number(*y))).collect();
        let _ = write!(self.text, "<polyline class=\"{}\" points=\"{}\"/>", escape(class), points.join(" "));
    }

    /// A text whose base line is at the place.
    pub(super) fn text(&mut self, class: &str, anchor: Anchor, [x, y]: [f64; 2], text: &str) {
        let class = match anchor {
            Anchor::Start => class.to_owned(),
            Anchor::Middle => format!("{class} middle"),
            Anchor::End => format!("{class} end"),
        };
        self.shape("text", &class, &[("x", x), ("y", y)], Some(("", text)));
    }

    pub(super) fn finish(mut self) -> String {
        self.text.push_str("</svg>");
        self.text
    }

    fn shape(&mut self, name: &str, class: &str, numbers: &[(&str, f64)], content: Option<(&str, &str)>) {
        if numbers.iter().any(|(_, value)| !value.is_finite()) {
            return;
        }
        let _ = write!(self.text, "<{name} class=\"{}\"", escape(class));
        numbers.iter().for_each(|(key, value)| {
            let _ = write!(self.text, " {key}=\"{}\"", number(*value));
        });
        let _ = match content {
            None => write!(self.text, "/>"),
            Some(("", text)) => write!(self.text, ">{}</{name}>", escape(text)),
            Some((inner, text)) => write!(self.text, "><{inner}>{}</{inner}></{name}>", escape(text)),
        };
    }
}

/// The approximate width of a text.
pub(super) fn width(text: &str) -> f64 {
    0.58 * FONT * text.chars().map(|_| 1.0).sum::<f64>()
}

/// A text cut to an approximate width.
pub(super) fn shortened(text: &str, most: f64) -> String {
    if width(text) <= most {
        return text.to_owned();
    }
    let mut short = String::new();
    for character in text.chars() {
        if width(&short) + 2.0 * width("x") > most {
            break;
        }
        short.push(character);
    }
    short + "…"
}

/// A number with up to two decimals, without trailing zeros.
fn number(value: f64) -> String {
    let text = format!("{value:.2}");
    let text = text.trim_end_matches('0').trim_end_matches('.');
    if text == "-0" { "0".to_owned() } else { text.to_owned() }
}

/// A text escaped for character data and attribute values of HTML and XML. Control characters that XML forbids become spaces.
pub(super) fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            '\n' | '\t' => out.push(character),
            control if control.is_control() => out.push(' '),
            other => out.push(other),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shapes_by_hand() {
        let mut svg = Svg::new([100.0, 50.0], "a < b");
        svg.line("axis", [0.0, 1.5], [-0.001, 10.0 / 3.0]);
        svg.dot("c1", [1.0, 2.0], 3.0, "<script>");
        svg.dot("c1", [f64::NAN, 2.0], 3.0, "nowhere");
        svg.text("label", Anchor::End, [1.0, 2.0], "\"'&");
        svg.path("c2", &[[0.0, 0.0], [f64::INFINITY, 1.0], [2.0, 2.0]]);
        assert_eq!(
            svg.finish(),
            "<svg viewBox=\"0 0 100 50\" style=\"--width:100px\" role=\"img\" aria-label=\"a &lt; b\">\
             <line class=\"axis\" x1=\"0\" y1=\"1.5\" x2=\"0\" y2=\"3.33\"/>\
             <circle class=\"c1\" cx=\"1\" cy=\"2\" r=\"3\"><title>&lt;script&gt;</title></circle>\
             <text class=\"label end\" x=\"1\" y=\"2\">&quot;&#39;&amp;</text>\
             <polyline class=\"c2\" points=\"0,0 2,2\"/></svg>"
        );
    }

    #[test]
    fn long_names_are_cut() {
        assert_eq!(shortened("sgm", 100.0), "sgm");
        let short = shortened(&"é".repeat(100), 100.0);
        assert!(short.ends_with("é…") && width(&short) <= 100.0, "{short}");
        assert_eq!(shortened("sgm", 1.0), "…");
    }
}
