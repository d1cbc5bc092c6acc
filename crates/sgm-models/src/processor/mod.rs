//! Processors: from prompts to a batch of token ids and pixels.
//!
//! [`Processor`](batch::Processor) combines tokenizer, chat template and image processor. The other files hold prompts,
//! chat templates with the files they are in and the Jinja they are written in, the text that stands for images, the
//! resulting [`ModelInputs`](model_inputs::ModelInputs), and image processing.

pub(crate) mod batch;
pub(crate) mod chat_template;
pub(crate) mod image_text;
pub(crate) mod images;
pub(crate) mod jinja;
pub(crate) mod model_inputs;
pub(crate) mod prompt;
pub(crate) mod template_files;
