"""A program by itself: load a saved folder as anybody would and write down what it gives.

It is run in a new process and imports nothing of layerscope, so that nothing of what saved the folder
can help it. `python reload.py REQUEST ANSWER`: REQUEST is a JSON file, ANSWER a safetensors file whose
metadata holds the facts.
"""

import inspect
import json
import sys
import time
from collections.abc import Iterator
from typing import Any


def main(request_path: str, answer_path: str) -> None:
    """Read the request, load, run, answer."""
    with open(request_path, encoding="utf-8") as file:  # noqa: PTH123
        request = json.load(file)
    import torch
    from safetensors.torch import save_file

    torch.set_num_threads(request["threads"])
    read = {
        "transformers": _read_transformers,
        "sentence-transformers": _read_sentences,
        "onnx": _read_onnx,
    }
    with torch.inference_mode():
        arrays, facts = read[request["format"]](request)
    tensors = {name: array.detach().cpu().contiguous().clone() for name, array in arrays.items()}
    save_file(tensors, answer_path, metadata={"facts": json.dumps(facts)})


def _read_transformers(request: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    import torch
    import transformers

    started = time.perf_counter()
    config = transformers.AutoConfig.from_pretrained(request["folder"])
    kind = getattr(transformers, config.architectures[0])
    model, report = kind.from_pretrained(request["folder"], dtype="auto", output_loading_info=True)
    model.to(request["device"]).eval()
    facts = {
        "seconds": time.perf_counter() - started,
        "class": kind.__name__,
        "missing": sorted(name for name in report["missing_keys"] if "pooler" not in name),
        "unexpected": sorted(report["unexpected_keys"]),
        "parameters": sum(weight.numel() for weight in model.parameters()),
        "generated": [],
    }
    core = _core(model)
    arrays = {}
    for place, inputs in enumerate(_inputs(request)):
        inputs = {name: array.to(core.device) for name, array in inputs.items()}
        if "pixel_values" in inputs:
            inputs["pixel_values"] = inputs["pixel_values"].to(core.dtype)
        output: Any = core(**inputs, output_hidden_states=True)
        for name in request["output"]:
            output = output[name]
        arrays[f"states.{place}"] = output[0]
        if "input_ids" in inputs:
            arrays[f"ids.{place}"] = inputs["input_ids"][0]
    # In half precision two words may be equally likely, and either choice is right.
    writer = model.float() if request["generate"] else model
    for prompt in request["generate"]:
        tokenizer = transformers.AutoTokenizer.from_pretrained(request["folder"])
        tokens = tokenizer(prompt, return_tensors="pt").to(writer.device)
        for cache in (True, False):
            written = writer.generate(
                tokens["input_ids"],
                attention_mask=torch.ones_like(tokens["input_ids"]),
                max_new_tokens=request["new_tokens"],
                do_sample=False,
                use_cache=cache,
                pad_token_id=0,
            )
            facts["generated"].append(written[0].tolist())
    return arrays, facts


def _core(model: Any) -> Any:
    """Return what computes the hidden states."""
    core = model.base_model
    if "pixel_values" not in inspect.signature(core.forward).parameters and _sees(model):
        return model  # DINOv3 calls its list of blocks the base model
    if hasattr(core, "encoder") and hasattr(core, "decoder"):
        return core.get_encoder()
    inner: Any = core if hasattr(core, "lm_head") else getattr(core, "language_model", None)
    return inner.model if hasattr(inner, "lm_head") else core  # Llama 4 has heads further inside


def _sees(model: Any) -> bool:
    """Whether a model reads pixels."""
    return bool(model.main_input_name == "pixel_values")


def _inputs(request: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield what the model is called with, a text or a picture at a time."""
    from safetensors.torch import load_file
    from transformers import AutoTokenizer

    if request.get("pixels"):
        for picture in load_file(request["pixels"])["pixels"]:
            yield {"pixel_values": picture[None]}
        return
    tokenizer = AutoTokenizer.from_pretrained(request["folder"])
    for text in request["texts"]:
        tokens = tokenizer(
            text, truncation=True, max_length=request["max_length"], return_tensors="pt"
        )
        yield {name: tokens[name] for name in ("input_ids", "attention_mask")}


def _read_sentences(request: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    started = time.perf_counter()
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(request["folder"], device=request["device"])
    facts = {
        "seconds": time.perf_counter() - started,
        "class": "SentenceTransformer",
        "parameters": sum(weight.numel() for weight in model[0].parameters()),
        "missing": [],
        "unexpected": [],
        "generated": [],
    }
    vectors = model.encode(request["texts"], convert_to_tensor=True, show_progress_bar=False)
    return {f"vector.{place}": vector for place, vector in enumerate(vectors)}, facts


def _read_onnx(request: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    import os

    import numpy as np
    import onnxruntime
    import torch

    started = time.perf_counter()
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = request["threads"]
    path = os.path.join(request["folder"], "model.onnx")  # noqa: PTH118
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    facts = {
        "seconds": time.perf_counter() - started,
        "class": "onnxruntime",
        "parameters": request["parameters"],
        "missing": [],
        "unexpected": [],
        "generated": [],
    }
    arrays = {}
    for place, inputs in enumerate(_inputs(request)):
        # Beside itself with padding after it, since one text alone needs neither batch nor mask.
        pairs = {
            name: np.concatenate([np.pad(array.numpy(), ((0, 0), (0, 3)))] * 2)
            for name, array in inputs.items()
        }
        states = session.run(["last_hidden_state"], pairs)[0][1]
        length = inputs["input_ids"].shape[1]
        arrays[f"states.{place}"] = torch.from_numpy(states[:length])
        arrays[f"ids.{place}"] = inputs["input_ids"][0]
    return arrays, facts


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
