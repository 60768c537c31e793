"""Makes the golden adapter with which crates/engine/tests/agreement.rs judges the engine.

The reference is peft on Hugging Face transformers, on the weights of the GGUF file itself, dequantized to f32. Usage:

    python -m venv oracle && oracle/bin/pip install torch transformers gguf accelerate numpy peft
    oracle/bin/python scripts/golden/adapter.py SmolLM2-135M-Instruct.Q4_1.gguf crates/engine/tests/golden

Writes into the folder, reading its text.txt:
  adapter/        a seeded random adapter as peft saves it, in half precision: three of the layers, all products, ranks
                  and scales that differ from one product to the other
  adapter.bin     POSITIONS positions with it, in the format of reference.bin
and prints the figures that scripts/golden/README.md records.
"""

import sys
from pathlib import Path

import torch
from gguf import GGUFReader
from make import TOP, encode, log_probabilities, lumped, mean_divergence, published_tokenizer, write
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM

POSITIONS = 128
TARGETS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


def main(model_path, folder):
    torch.set_num_threads(2)
    torch.manual_seed(20_261_128)
    model_path, folder = Path(model_path), Path(folder)
    tokenizer = published_tokenizer(GGUFReader(model_path))
    ids = encode(tokenizer, (folder / "text.txt").read_text(), False)[:POSITIONS]
    base = AutoModelForCausalLM.from_pretrained(
        model_path.parent, dtype=torch.float32, gguf_file=model_path.name
    ).eval()
    plain = log_probabilities(base, ids)
    settings = LoraConfig(
        task_type="CAUSAL_LM",
        r=2,
        lora_alpha=8,
        target_modules=TARGETS,
        layers_to_transform=[0, 14, 29],
        rank_pattern={"k_proj": 4},
        alpha_pattern={r"layers\.14\.mlp\.down_proj": 4},
        use_rslora=True,
        init_lora_weights=False,
    )
    model = get_peft_model(base, settings).eval()
    settings.base_model_name_or_path = "SmolLM2-135M-Instruct"
    # What is saved in half precision is what is computed with.
    for name, weights in model.named_parameters():
        if "lora_" in name:
            weights.data = (weights.data * 0.7).half().float()
    half = {name: weights.half() for name, weights in model.state_dict().items() if "lora_" in name}
    model.save_pretrained(folder / "adapter", state_dict=half)
    (folder / "adapter" / "README.md").unlink()

    full = log_probabilities(model, ids)
    top = torch.topk(full, TOP, dim=1).indices
    reference = lumped(full, top)
    write(folder / "adapter.bin", ids, top, reference)

    lump = reference[:, TOP].exp()
    print(f"mass outside the {TOP}: mean {lump.mean():.4f}, largest {lump.max():.4f}")
    print(f"model without it: {against(reference, plain, top, full)}")
    for what, change in (("queries and keys in the file's order", swap), ("scale by the rank, not its root", rescale)):
        kept = {name: weights.clone() for name, weights in model.state_dict().items()}
        change(model)
        print(f"{what}: {against(reference, log_probabilities(model, ids), top, full)}")
        model.load_state_dict(kept)
        for layer in scaled(model):
            layer.scaling["default"] = layer.lora_alpha["default"] / layer.r["default"] ** 0.5


def against(reference, other, top, full):
    agree = (other.argmax(dim=1) == full.argmax(dim=1)).float().mean()
    return f"mean KL {mean_divergence(reference, lumped(other, top)):.3e} lumped; same best token {agree:.1%}"


def scaled(model):
    return [module for module in model.modules() if isinstance(getattr(module, "scaling", None), dict)]


def swap(model):
    """B of queries and keys with its rows as a GGUF file would have them: what forgetting the order computes."""
    for name, weights in model.named_parameters():
        if "lora_B" in name and ("q_proj" in name or "k_proj" in name):
            rows, rank = weights.shape
            halves = weights.data.reshape(rows // 64, 2, 32, rank)
            weights.data = halves.transpose(1, 2).reshape(rows, rank).contiguous()


def rescale(model):
    for layer in scaled(model):
        layer.scaling["default"] = layer.lora_alpha["default"] / layer.r["default"]


if __name__ == "__main__":
    main(*sys.argv[1:])
