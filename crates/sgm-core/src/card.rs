//! The card of an intervention: a description in Markdown beside its file.

use std::path::{Path, PathBuf};

use crate::{Condition, Error, Intervention, Result, TokenSelection, shortcut_warning, write_atomically};

/// The first line of every card. A file without it is not a card and is not overwritten.
const MARK: &str = "<!-- card of an SGM intervention, written with it and overwritten with it -->";

/// The path of an intervention file's card: `glasses.sgm.md` for `glasses.sgm.safetensors`.
fn path_of(file: &Path) -> PathBuf {
    match file.extension() {
        Some(extension) if extension == "safetensors" => file.with_extension("md"),
        _ => {
            let mut name = file.as_os_str().to_owned();
            name.push(".md");
            name.into()
        }
    }
}

/// Writes the card beside an intervention's file, unless a file of that name is not a card.
pub(crate) fn save(file: &Path, intervention: &Intervention) -> Result<()> {
    let path = path_of(file);
    match std::fs::read(&path) {
        Ok(there) if !there.starts_with(MARK.as_bytes()) => return Ok(()),
        Err(source) if source.kind() != std::io::ErrorKind::NotFound => return Err(Error::Io { path, action: "read", source }),
        _ => {}
    }
    let name = file.file_name().unwrap_or_default().to_string_lossy();
    write_atomically(&path, intervention.card(&name).as_bytes())
}

impl Intervention {
    /// The card of the intervention in Markdown, for a file of the given name: its origin, its strength, its use and its limits. Equal
    /// interventions have equal cards.
    pub fn card(&self, file: &str) -> String {
        let m = &self.metadata;
        let described = self.describe();
        let (total, file) = (described.total, plain(file));
        let tokens = self.tokens;
        let calibration = m.calibration.as_ref().map(|c| {
            format!(
                "{}: {} toxic, {} non-toxic samples; labels by {}; SHA-256 {}",
                c.dataset, c.n_toxic, c.n_non_toxic, c.label_source, c.sha256
            )
        });
        let shortcuts = m.calibration.as_ref().map(|c| &c.shortcuts).filter(|shortcuts| !shortcuts.is_empty());
        let told_by = shortcuts.map(|shortcuts| {
            let each = shortcuts.iter().map(|(name, auroc)| format!("{name} {auroc:.3}"));
            format!("{} (AUROC; 0.5 or less is chance)", each.collect::<Vec<_>>().join(", "))
        });
        let shortcut = shortcuts.and_then(shortcut_warning).map(|warning| format!("\n**{}**\n", plain(&warning))).unwrap_or_default();
        let method = m.method.as_ref().map(ToString::to_string);
        let condition = self.condition.as_ref().map(|Condition { probe, threshold }| {
            let neurons = probe.weights().values().map(Vec::len).sum::<usize>();
            format!(
                "the score of a probe of {neurons} neurons at the last prompt token is at least {threshold}; \
                 baked into weights it always acts"
            )
        });
        let rows = [
            ("model", m.base_model.as_deref()),
            ("revision", m.base_model_revision.as_deref()),
            ("SHA-256 of its config.json", m.config_sha256.as_deref()),
            ("calibration data", calibration.as_deref()),
            ("label told by these alone", told_by.as_deref()),
            ("scorer", m.scorer.as_deref()),
            ("pooling over tokens", m.pooling.as_deref()),
            ("method", method.as_deref()),
            ("tokens it acts on", Some(tokens.name())),
            ("acts when", condition.as_deref()),
            ("written by", m.created_by.as_deref()),
            ("licence", m.licence.as_deref()),
        ];
        let mut table = String::from("| | |\n|---|---|\n");
        for (what, value) in rows.into_iter().chain(m.other.iter().map(|(key, value)| (key.as_str(), Some(value.as_str())))) {
            let value = value.filter(|v| !v.is_empty()).unwrap_or("not recorded");
            table += &format!("| {} | {} |\n", plain(what), plain(value));
        }
        let method_name = m.method.as_ref().and_then(|m| m.get("name")).and_then(serde_json::Value::as_str).unwrap_or("unnamed");
        let shifts =
            if total.shifted == 0 { String::new() } else { format!(", {} are shifted (by at most {})", total.shifted, total.max_shift) };
        let added = match self.added_neurons() {
            0 => String::new(),
            n => format!(" {n} patch neurons are added to the MLPs of {} layers.", self.patches().len()),
        };
        let warning = match described.amplification {
            None => String::new(),
            Some(a) => format!(
                "\n**It amplifies.** {} scales are above 1 or below 0, the first at `{}`, neuron {}: {}. That can make a model more toxic; \
                 everything that applies it refuses unless amplification is allowed explicitly.\n",
                total.amplified, a.site, a.neuron, a.scale
            ),
        };
        let use_it = if tokens == TokenSelection::All {
            all_tokens(&file, total.shifted > 0, self.added_neurons() > 0)
        } else {
            some_tokens(&file, tokens)
        };
        format!(
            "{MARK}\n# {file}\n\nAn intervention on the MLP neurons of a multimodal language model, made by the method `{}`: the output of \
             every neuron becomes `scale * output + shift`. Of {} neurons {} are changed{shifts}.{added}\n{warning}\n\
             ## What it is for and made from\n\n\
             {table}{shortcut}\n## How strong it is\n\n{}\n## How to use it\n\n{use_it}\n## Limits\n\n{LIMITS}",
            plain(method_name),
            total.neurons,
            total.changed,
            described.table(),
        )
    }
}

const LIMITS: &str = "\
* It fits the model above and no other: the same neuron of another model, or of a fine-tuned one, means something else.
* SGM's own equations are not public beyond its abstract (arXiv 2512.15052). The rule `sgm` is a reconstruction; `det0`, `damp` and `aura` \
follow
  arXiv 2407.12824, `mean-act` and `linear-act` arXiv 2410.23054.
* Detection is not generation: a neuron that tells toxic from non-toxic input need not produce toxic output. Measure answers, and what is
  lost elsewhere (perplexity, questions answered, refusals), before relying on it.
* It makes toxic answers less frequent, not impossible, and knows the kind of toxicity of its calibration data only.
* A file carries the licence of the model and data it was made from, unless its own says otherwise above.
";

/// Commands and Python code for an intervention on all tokens, which weights can hold.
fn all_tokens(file: &str, shifts: bool, adds: bool) -> String {
    let shift_note =
        if shifts { "\nBaking needs a bias at every shifted site to hold the shift; worn at run time none is needed.\n" } else { "" };
    let added_note = if adds {
        "\nOf added neurons `<site>/patch` are the rows of `gate_proj` and `up_proj`, and at `down_proj` the columns, \
         one after the other.\n"
    } else {
        ""
    };
    format!(
        "```sh
cargo run --release --example suppress -- describe {file}
cargo run --release --example bake -- --model MODEL_DIR --intervention {file} --out BAKED_DIR
cargo run --release --example suppress -- compose {file} OTHER.sgm.safetensors --out BOTH.sgm.safetensors
```
{shift_note}
In Python, on a transformers model (its modules are `model.language_model.layers...`, of text models `model.layers...`):

```python
from safetensors.torch import load_file
tensors, modules = load_file(\"{file}\"), dict(model.named_modules())
for site in sorted(name.removesuffix(\"/scale\") for name in tensors if name.endswith(\"/scale\")):
    scale, shift = tensors[site + \"/scale\"], tensors.get(site + \"/shift\", 0)
    modules[site.replace(\"lm.layers\", \"model.language_model.layers\")].register_forward_hook(lambda m, i, y, a=scale, b=shift: y * a + b)
```
{added_note}"
    )
}

/// Commands and Python code for an intervention on some tokens.
fn some_tokens(file: &str, tokens: TokenSelection) -> String {
    format!(
        "It acts on the tokens `{tokens}` only, so weights cannot hold it: wear it at run time (`sgm::suppress::Glasses`).

```sh
cargo run --release --example suppress -- describe {file}
```

```python
from safetensors import safe_open
with safe_open(\"{file}\", \"np\") as f:
    scales = {{name: f.get_tensor(name) for name in f.keys() if name.endswith(\"/scale\")}}
    print(f.metadata()[\"positions\"], {{name: scale.mean() for name, scale in scales.items()}})
```
"
    )
}

/// Text with the characters escaped that would end a table cell or a line of code.
fn plain(text: &str) -> String {
    let replace = |c: char| match c {
        '|' => "\\|".to_owned(),
        '<' => "&lt;".to_owned(),
        '`' => "'".to_owned(),
        c if c.is_control() => " ".to_owned(),
        c => c.to_string(),
    };
    text.chars().map(replace).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Metadata, Projection, Site, SiteIntervention};

    fn glasses(scale: f32) -> Intervention {
        let method = Some(serde_json::json!({"name": "sgm"}));
        let mut glasses = Intervention::new(Metadata { method, base_model: Some("a|b\n<c>`".to_owned()), ..Default::default() });
        glasses.insert(Site::new(2, Projection::Up), SiteIntervention::from_scale(vec![1.0, scale])).unwrap();
        glasses
    }

    #[test]
    fn a_card_is_written_beside_the_file_and_never_over_somebody_elses() {
        let dir = tempfile::tempdir().unwrap();
        let (file, card) = (dir.path().join("g.sgm.safetensors"), dir.path().join("g.sgm.md"));
        glasses(0.5).save(&file).unwrap();
        assert_eq!(std::fs::read_to_string(&card).unwrap(), glasses(0.5).card("g.sgm.safetensors"));
        glasses(0.25).save(&file).unwrap();
        assert_eq!(std::fs::read_to_string(&card).unwrap(), glasses(0.25).card("g.sgm.safetensors"));
        std::fs::write(&card, "my notes").unwrap();
        glasses(0.5).save(&file).unwrap();
        assert_eq!(std::fs::read_to_string(&card).unwrap(), "my notes");
        assert_eq!(path_of(Path::new("a/b")), Path::new("a/b.md"));
        assert_eq!(path_of(Path::new("a/b.sgm")), Path::new("a/b.sgm.md"));
    }

    #[test]
    fn a_card_says_what_matters_and_no_value_breaks_it() {
        let card = glasses(0.5).card("g.sgm.safetensors");
        assert!(card.contains("| model | a\\|b &lt;c>' |"), "{card}");
        assert!(
            card.contains("Of 2 neurons 1 are changed.")
                && card.contains("method `sgm`")
                && card.contains("--intervention g.sgm.safetensors")
        );
        assert!(card.contains("| all | 2 | 1 | 0 | 1 | 0 | 0 | 0 | 0.500 to 1.000 | 0.500 |"), "{card}");
        assert!(!card.contains("It amplifies"));
        assert!(
            glasses(1.4)
                .card("g")
                .contains("**It amplifies.** 1 scales are above 1 or below 0, the first at `lm.layers.2.mlp.up_proj`, neuron 1: 1.4.")
        );
        let mut given_away = glasses(0.5);
        let shortcuts = [("prompt".to_owned(), 0.98), ("image".to_owned(), 0.5)].into();
        given_away.metadata.calibration = Some(crate::Calibration { shortcuts, ..Default::default() });
        let card = given_away.card("g");
        assert!(card.contains("| label told by these alone | image 0.500, prompt 0.980 (AUROC;"), "{card}");
        assert!(card.contains("**Warning: ") && card.contains("prompt (AUROC 0.980)") && !card.contains("image (AUROC"), "{card}");
        let mut response = glasses(0.5);
        response.tokens = TokenSelection::Response;
        let card = response.card("g");
        assert!(card.contains("acts on the tokens `response` only") && !card.contains("--example bake"));
    }
}
