#!/usr/bin/env python3
"""Tunes the tiny checkpoint and writes it to `tests/tiny`, with what torch computes from it in float64.

The engine's tests load the folder and compare (`crates/lazy-attn-models/tests/block_finetune.rs`).
"""

import json
import pathlib
import random
import sys
import tempfile

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

TESTS = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(TESTS.parent))

import block_rows
import tiny
import train
from block_rows import FINAL
from block_template import PartEncoder, template_of

NUM_TOP, NUM_GREEDY = 20, 4


def logits(model, tokens, parts):
    """Of the last token, [vocab_size]."""
    with torch.no_grad():
        hidden = model.get_decoder()(
            input_ids=torch.tensor([tokens]),
            attention_mask=block_rows.block_mask(torch.tensor([parts])),
            position_ids=torch.arange(len(tokens)).unsqueeze(0),
            use_cache=False,
        ).last_hidden_state
        return model.get_output_embeddings()(hidden[0, -1])


def case(model, item, name, mode):
    """A prompt with the largest logits behind it and the greedy tokens with their margins."""
    prompt = len(item.tokens) - item.num_answer
    tokens, parts = item.tokens[:prompt], item.parts[:prompt]
    written = []
    for index, part in enumerate(dict.fromkeys(parts)):
        ids = [token for token, owner in zip(tokens, parts) if owner == part]
        written.append({"text" if index == 0 or part == FINAL else "document": ids})
    if mode == "full":
        parts = [FINAL] * prompt
    values, ids = logits(model, tokens, parts).topk(NUM_TOP)
    greedy = []
    for _ in range(NUM_GREEDY):
        best, token = logits(model, tokens, parts).topk(2)
        greedy.append([token[0].item(), (best[0] - best[1]).item()])
        tokens, parts = [*tokens, token[0].item()], [*parts, FINAL]
    return {"name": name, "mode": mode, "parts": written, "top": list(zip(ids.tolist(), values.tolist())), "greedy": greedy}


def main():
    with tempfile.TemporaryDirectory() as folder:
        start = pathlib.Path(folder)
        tiny.save_checkpoint(start / "start")
        tiny.write_rows(start / "rows.jsonl", tiny.rows(2000, 1))
        options = ["--model", start / "start", "--data", start / "rows.jsonl", "--output", TESTS / "tiny"]
        fixed = ["--batch-size", "32", "--accumulate", "1", "--log-every", "50", "--steps", "400"]
        train.main([str(option) for option in [*options, *fixed, "--learning-rate", "4e-3"]])
    model = AutoModelForCausalLM.from_pretrained(TESTS / "tiny", dtype=torch.float64, attn_implementation="sdpa").eval()
    tokenizer = AutoTokenizer.from_pretrained(TESTS / "tiny")
    template, encoder = template_of(tokenizer), PartEncoder.of(tokenizer)
    cases = []
    for number, row in enumerate(tiny.rows(4, 99)):
        item = block_rows.example(row, template, encoder, {tokenizer.eos_token_id}, random.Random(number))
        cases.extend(case(model, item, row["question"], mode) for mode in ("block", "full"))
    lines = ",\n".join(json.dumps(one, separators=(",", ":")) for one in cases)
    (TESTS / "tiny" / "expected.json").write_text(f"[\n{lines}\n]\n", encoding="utf-8")


if __name__ == "__main__":
    main()
