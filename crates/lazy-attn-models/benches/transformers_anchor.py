"""Hugging Face transformers on the shape of Llama-3.1-8B, as an anchor for `benches/cuda.rs`: same card, same shape, random
bf16 weights, SDPA, static cache; decode as it is, as a CUDA graph, and through `torch.compile(mode="reduce-overhead")`.

    python3 transformers_anchor.py [--rows ttft decode compiled] [--compile SECONDS] [--gate FILE] [--batches N ...] [--layers N]

Compiling takes a minute and no device: with `--gate` what is compiled is timed once FILE is there, so that processes can compile
beside one another and be timed one by one. Times are from call to answer, the token included; medians. `ttft` behind a resident prefix is what prefix caching gives when
the documents stand in the order they were cached in; `ttft cold` is what it gives when they do not.
"""

import argparse
import json
import pathlib
import signal
import time

import torch
import transformers
from transformers import LlamaConfig, LlamaForCausalLM, StaticCache

CONFIG = LlamaConfig(
    vocab_size=128256,
    hidden_size=4096,
    intermediate_size=14336,
    num_hidden_layers=32,
    num_attention_heads=32,
    num_key_value_heads=8,
    max_position_embeddings=131072,
    rms_norm_eps=1e-5,
    tie_word_embeddings=False,
    bos_token_id=None,
    eos_token_id=None,
)


def make_model():
    torch.set_default_dtype(torch.bfloat16)
    with torch.device("cuda"):
        model = LlamaForCausalLM._from_config(CONFIG, attn_implementation="sdpa", dtype=torch.bfloat16)
    torch.set_default_dtype(torch.float32)
    return model.eval()


def ids(batch, length):
    return torch.randint(0, 32000, (batch, length), device="cuda")


def median_ms(run, repetitions, skip):
    times = []
    for _ in range(repetitions):
        start = time.perf_counter()
        run()
        torch.cuda.synchronize()
        times.append(time.perf_counter() - start)
    times = sorted(times[skip:])
    return 1e3 * times[len(times) // 2]


def report(name, ms, **more):
    print(json.dumps({"row": name, "ms": round(ms, 3), **more}), flush=True)


def prefilled(model, batch, context, room):
    cache = StaticCache(config=model.config, max_cache_len=context + room)
    for first in range(0, context, 2048):
        model(ids(batch, min(2048, context - first)), past_key_values=cache, use_cache=True, logits_to_keep=1)
    return cache


def stepper(model, cache):
    def step(token):
        logits = model(token, past_key_values=cache, use_cache=True).logits
        return logits[:, -1].argmax(-1, keepdim=True)

    return step


def decode(model, batch, context):
    cache = prefilled(model, batch, context, 256)
    step, token = stepper(model, cache), ids(batch, 1)
    report(f"decode_b{batch}_ctx{context}", median_ms(lambda: step(token), 12, 4), how="eager")
    side = torch.cuda.Stream()
    with torch.cuda.stream(side):
        step(token)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        step(token)
    report(f"decode_b{batch}_ctx{context}", median_ms(graph.replay, 40, 8), how="CUDA graph")


def decode_compiled(model, batch, context, seconds_max, gate):
    cache = prefilled(model, batch, context, 256)
    torch._dynamo.reset()
    step, token = torch.compile(stepper(model, cache), mode="reduce-overhead", dynamic=False), ids(batch, 1)
    signal.alarm(seconds_max)
    start = time.perf_counter()
    try:
        for _ in range(4):
            step(token)
        torch.cuda.synchronize()
    except TimeoutError:
        report(f"decode_b{batch}_ctx{context}", float("nan"), how=f"torch.compile, not done in {seconds_max} s")
        return
    finally:
        signal.alarm(0)
    seconds = round(time.perf_counter() - start, 1)
    print(json.dumps({"compiled": batch, "seconds": seconds}), flush=True)
    while gate and not pathlib.Path(gate).exists():
        time.sleep(0.1)
    report(f"decode_b{batch}_ctx{context}", median_ms(lambda: step(token), 40, 8), how="torch.compile", compiled_in_s=seconds)


def first_token(model, context, query):
    cache, question = prefilled(model, 1, context, 256), ids(1, query)

    def ask():
        for layer in cache.layers:
            layer.cumulative_length.fill_(context)
        return model(question, past_key_values=cache, use_cache=True, logits_to_keep=1).logits[:, -1].argmax(-1)

    report(f"ttft_{context}_q{query}", median_ms(ask, 8, 3), how="resident prefix")
    whole = ids(1, context + query)

    def cold():
        return model(whole, use_cache=False, logits_to_keep=1).logits[:, -1].argmax(-1)

    report(f"ttft_{context}_q{query}", median_ms(cold, 5, 2), how="cold")


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    rows = ["ttft", "decode", "compiled"]
    parser.add_argument("--rows", nargs="+", choices=rows, default=rows, help="what is timed")
    parser.add_argument("--compile", type=int, default=180, metavar="SECONDS", help="try torch.compile for so long a batch")
    parser.add_argument("--gate", metavar="FILE", help="time what was compiled once this is there")
    parser.add_argument("--layers", type=int, default=32, help="fewer, to see that it runs")
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 32], help="sequences that decode at once")
    arguments = parser.parse_args()
    CONFIG.num_hidden_layers = arguments.layers
    print(json.dumps({"torch": torch.__version__, "transformers": transformers.__version__, "card": torch.cuda.get_device_name()}))
    signal.signal(signal.SIGALRM, lambda *_: (_ for _ in ()).throw(TimeoutError()))
    with torch.inference_mode():
        model = make_model()
        if "ttft" in arguments.rows:
            first_token(model, 5 * 2048, 32)
        for batch in arguments.batches:
            if "decode" in arguments.rows:
                decode(model, batch, 2048)
            if "compiled" in arguments.rows:
                decode_compiled(model, batch, 2048, arguments.compile, arguments.gate)


if __name__ == "__main__":
    main()
