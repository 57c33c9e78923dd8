"""A checkpoint small enough to keep: ChatML, byte-level BPE, two layers; and rows to tune it on."""

import json
import random

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

SPECIALS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
CHAT_TEMPLATE = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
THINGS = ["lamp", "boat", "mill", "gate", "bell", "coat", "drum", "kite"]
COLOURS = ["red", "blue", "green", "white", "black", "brown", "grey", "pink"]


def rows(count, seed):
    """Questions about the colour of one of three things; the answer stands in one document only."""
    rng = random.Random(seed)
    made = []
    for _ in range(count):
        things = rng.sample(THINGS, 3)
        docs = [{"title": thing, "text": f"The {thing} is {rng.choice(COLOURS)}."} for thing in things]
        asked = rng.randrange(3)
        answer = docs[asked]["text"].split()[-1].rstrip(".")
        question = f"What colour is the {things[asked]}?"
        made.append({"docs": docs, "question": question, "answers": [answer], "gold_doc_index": [asked]})
    return made


def write_rows(path, made):
    path.write_text("".join(json.dumps(row) + "\n" for row in made), encoding="utf-8")


def tokenizer():
    """As large as the texts of `rows` make it."""
    inner = Tokenizer(models.BPE())
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=512,
        special_tokens=SPECIALS,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    texts = [text for row in rows(200, 0) for text in (row["question"], *(doc["text"] for doc in row["docs"]))]
    texts.append("system user assistant Answer the question with a short phrase from the documents. Title: Question: ")
    inner.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=inner, bos_token=None, eos_token="<|im_end|>", pad_token="<|endoftext|>", chat_template=CHAT_TEMPLATE
    )


def save_checkpoint(folder, seed=7):
    """Random weights with the configuration of a Llama."""
    torch.manual_seed(seed)
    words = tokenizer()
    config = LlamaConfig(
        vocab_size=len(words),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=512,
        rope_parameters={"rope_type": "default", "rope_theta": 10000.0},
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=words.convert_tokens_to_ids("<|im_end|>"),
        # Larger than usual, so that a random model's attention is far from uniform and a wrong mask shows.
        initializer_range=0.2,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    words.save_pretrained(folder)
