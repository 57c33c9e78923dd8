#!/usr/bin/env python3
"""Tunes a Llama or Mistral checkpoint for documents that are encoded alone, and saves it for the engine."""

import argparse
import math
import pathlib
import random
import sys
import time

import torch
from torch.nn.functional import cross_entropy
from transformers import AutoModelForCausalLM, AutoTokenizer

import block_rows
import lora
from block_template import PartEncoder, template_of

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def parse(arguments):
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", required=True, help="checkpoint to begin with: a folder or a hub id")
    parser.add_argument("--data", required=True, type=pathlib.Path, help="rows, .jsonl or .jsonl.gz")
    parser.add_argument("--output", required=True, type=pathlib.Path, help="folder of the tuned checkpoint")
    parser.add_argument("--steps", type=int, default=1000, help="updates")
    parser.add_argument("--batch-size", type=int, default=4, help="rows that run at once")
    parser.add_argument("--accumulate", type=int, default=8, help="batches per update")
    parser.add_argument("--learning-rate", type=float, default=2e-5, help="peak; 2e-4 suits adapters")
    parser.add_argument("--warmup", type=float, default=0.05, help="share of the steps")
    parser.add_argument("--block-share", type=float, default=0.5, help="share of the rows in block mode")
    parser.add_argument("--max-tokens", type=int, default=4096, help="longer rows are left out")
    parser.add_argument("--lora-rank", type=int, default=0, help="0 tunes all weights")
    parser.add_argument("--lora-alpha", type=float, default=32.0)
    parser.add_argument("--gradient-checkpointing", action="store_true", help="less memory, a third more time")
    parser.add_argument("--save-dtype", choices=DTYPES, default="bfloat16")
    parser.add_argument("--log-every", type=int, default=10)
    parser.add_argument("--seed", type=int, default=1)
    chosen = parser.parse_args(arguments)
    if not 0.0 <= chosen.block_share <= 1.0:
        parser.error(f"--block-share is {chosen.block_share}, but must be from 0 to 1")
    return chosen


def load(options, device):
    """The model, its tokenizer, and the ids that end an answer."""
    tokenizer = AutoTokenizer.from_pretrained(options.model)
    # All weights are tuned in float32 and multiplied in bfloat16; frozen ones need no master copy.
    dtype = torch.bfloat16 if options.lora_rank and device.type == "cuda" else torch.float32
    model = AutoModelForCausalLM.from_pretrained(options.model, dtype=dtype, attn_implementation="sdpa").to(device)
    window = getattr(model.config, "sliding_window", None)
    if window and window < options.max_tokens:
        raise SystemExit(f"the model sees {window} tokens back; give --max-tokens {window} or another checkpoint")
    ends = [model.generation_config.eos_token_id, model.config.eos_token_id, tokenizer.eos_token_id]
    flat = [token for end in ends for token in (end if isinstance(end, list) else [end])]
    return model, tokenizer, {token for token in flat if token is not None}


def answer_loss(model, batch):
    """Mean cross-entropy of the learnt tokens; logits are computed for them alone."""
    hidden = model.get_decoder()(
        input_ids=batch.tokens, attention_mask=batch.mask, position_ids=batch.positions, use_cache=False
    ).last_hidden_state  # [num_rows, num_tokens, hidden_size]
    is_learnt = batch.labels != -100
    logits = model.get_output_embeddings()(hidden[is_learnt])  # [num_learnt, vocab_size]
    return cross_entropy(logits.float(), batch.labels[is_learnt])


def schedule(step, options):
    """Linear warm-up, then half a cosine down to a tenth."""
    warmup = max(1, round(options.warmup * options.steps))
    if step < warmup:
        return (step + 1) / warmup
    along = (step - warmup) / max(1, options.steps - warmup)
    return 0.1 + 0.45 * (1 + math.cos(math.pi * along))


def train(model, source, options, device):
    """Runs the updates; returns the loss of each."""
    tuned = [weight for weight in model.parameters() if weight.requires_grad]
    optimizer = torch.optim.AdamW(tuned, lr=options.learning_rate, betas=(0.9, 0.95), weight_decay=0.0)
    model.train()
    losses, begin = [], time.monotonic()
    for step in range(options.steps):
        for group in optimizer.param_groups:
            group["lr"] = options.learning_rate * schedule(step, options)
        total = 0.0
        for _ in range(options.accumulate):
            with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
                loss = answer_loss(model, next(source).to(device)) / options.accumulate
            loss.backward()
            total += loss.item()
        torch.nn.utils.clip_grad_norm_(tuned, 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        losses.append(total)
        if step % options.log_every == 0 or step + 1 == options.steps:
            print(f"step {step + 1}/{options.steps}: loss {total:.4f}, {time.monotonic() - begin:.0f} s", flush=True)
    return losses


def save(model, tokenizer, options):
    """Adapters become weights; the folder is one the engine loads."""
    lora.merge(model)
    model.to(DTYPES[options.save_dtype]).save_pretrained(options.output, safe_serialization=True)
    tokenizer.save_pretrained(options.output)


def main(arguments=None):
    options = parse(arguments)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.manual_seed(options.seed)
    model, tokenizer, end_ids = load(options, device)
    if options.lora_rank:
        lora.add(model, options.lora_rank, options.lora_alpha)
    if options.gradient_checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    template, encoder = template_of(tokenizer), PartEncoder.of(tokenizer)
    rows = block_rows.read_rows(options.data)

    def make(row, rng):
        return block_rows.example(row, template, encoder, end_ids, rng)

    lengths = [len(make(row, random.Random(0)).tokens) for row in rows[:200]]
    num_long = sum(length > options.max_tokens for length in lengths)
    print(f"{len(rows)} rows; of the first {len(lengths)}, {num_long} are too long, mean {sum(lengths) / len(lengths):.0f} tokens")
    source = block_rows.batches(
        rows, make, options.batch_size, options.block_share, options.max_tokens, options.seed
    )
    losses = train(model, source, options, device)
    save(model, tokenizer, options)
    print(f"saved {options.output}")
    return losses


if __name__ == "__main__":
    try:
        main()
    except ValueError as error:
        sys.exit(f"error: {error}")
