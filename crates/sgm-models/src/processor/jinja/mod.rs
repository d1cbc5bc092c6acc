//! The Jinja of chat templates, as transformers renders it: Jinja2 with Python's methods, printing and JSON.
//!
//! minijinja renders; [`environment`](environment::environment) sets it up. [`rewrite`] expresses what minijinja lacks,
//! [`filters`] and [`methods`] replace or add what differs from Python, [`json`] and [`printing`] print as Python does.

pub(crate) mod environment;
mod filters;
mod json;
mod methods;
mod printing;
mod rewrite;
