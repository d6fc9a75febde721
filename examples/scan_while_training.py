"""Measure the layers while the transformers Trainer trains: what changes, and which layers settle.

    python examples/scan_while_training.py studies/testbed/models/gpt-neox-32/step0 notes.txt tuned/
    layerscope plot tuned/layerscope/step* --x step --metric prompt_entropy --out entropy.png

The training itself is not changed by a bit. The numbers go to whatever the Trainer reports to.
"""

import argparse
from pathlib import Path

from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    DataCollatorForLanguageModeling,
    Trainer,
    TrainingArguments,
)

from layerscope.integrations import ScanCallback


def train(model: Path, texts: list[str], out: Path, steps: int = 100, every: int = 25) -> Trainer:
    """Train a causal model on texts, and scan it at step 0, at every so many steps and at the end."""
    tokenizer = AutoTokenizer.from_pretrained(model)
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    rows = [tokenizer(text, truncation=True, max_length=128) for text in texts]
    arguments = TrainingArguments(
        output_dir=str(out), max_steps=steps, per_device_train_batch_size=8, report_to="none",
        logging_steps=every, save_strategy="no",
    )  # fmt: skip
    trainer = Trainer(
        AutoModelForCausalLM.from_pretrained(model),
        arguments,
        train_dataset=rows,
        data_collator=DataCollatorForLanguageModeling(tokenizer, mlm=False),
        processing_class=tokenizer,
        callbacks=[ScanCallback(texts[:32], every=every, max_length=128)],
    )
    trainer.train()
    return trainer


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=Path, help="a causal model")
    parser.add_argument("texts", type=Path, help="a file with one text a line")
    parser.add_argument("out", type=Path)
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--every", type=int, default=25)
    asked = parser.parse_args()
    texts = [line for line in asked.texts.read_text(encoding="utf-8").splitlines() if line.strip()]
    train(asked.model, texts, asked.out, asked.steps, asked.every)
    for folder in sorted((asked.out / "layerscope").iterdir()):
        print(folder)


if __name__ == "__main__":
    main()
