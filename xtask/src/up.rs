//! `cargo xtask up`: build, obtain the model, become `mesh up`.

use std::os::unix::process::CommandExt;
use std::process::Command;

use anyhow::{Context as _, Result};

use crate::context::Context;
use crate::model;

const SAMPLES: &str = "deploy/samples/standalone";

pub(crate) fn run(context: &Context) -> Result<()> {
    let binary = context.build_release(context.cargo())?;
    if let Err(error) = model::obtain(context) {
        println!("{error:#}");
        println!("The mesh starts with what it has.");
    }
    let listen = std::env::var("MESH_LISTEN").unwrap_or_else(|_| "127.0.0.1:8080".to_owned());
    println!("{}", greeting(&listen));
    let mut mesh = Command::new(&binary);
    mesh.args(["up", SAMPLES]).current_dir(&context.root);
    // The mesh takes this process's place, so that Ctrl-C and signals reach it and nothing else.
    Err(mesh.exec()).with_context(|| format!("could not start {}", binary.display()))
}

fn greeting(listen: &str) -> String {
    format!(
        r#"
When the mesh listens, try it from another terminal:

curl http://{listen}/v1/chat/completions -H 'content-type: application/json' -d '
{{"model": "auto", "messages": [{{"role": "user", "content": "Write one sentence about the sea."}}]}}'

python3 -c '
from openai import OpenAI  # pip install openai
mesh = OpenAI(base_url="http://{listen}/v1", api_key="placeholder")
question = [{{"role": "user", "content": "Write one sentence about the sea."}}]
print(mesh.chat.completions.create(model="auto", messages=question).choices[0].message.content)
'
"#
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_python_lines_start_at_the_margin_where_python_wants_them() {
        let text = greeting("127.0.0.1:9");
        for line in [
            "from openai import OpenAI",
            "mesh = OpenAI(",
            "question = [",
            "print(mesh.",
        ] {
            assert!(text.lines().any(|found| found.starts_with(line)), "{line}");
        }
        assert!(text.contains("curl http://127.0.0.1:9/v1/chat/completions"));
    }
}
