"""Rows of JSON lines to batches: tokens, who sees whom, and which tokens are learnt."""

import gzip
import json
import random
from dataclasses import dataclass

import torch

# A token of part `p` sees the tokens of part `p` up to itself; one of the final part sees everything up to itself.
FINAL = -1
PADDING = -2


@dataclass(frozen=True)
class Example:
    """A prompt and its answer."""

    tokens: list  # ids of all parts and of the answer, [num_tokens]
    parts: list  # the part of each token; FINAL for the question and the answer, [num_tokens]
    num_answer: int  # the last so many tokens are learnt

    def full(self):
        """The same with full attention: a context whose every token is of the final part."""
        return Example(self.tokens, [FINAL] * len(self.tokens), self.num_answer)


def read_rows(path):
    """The rows of a `.jsonl` or `.jsonl.gz` file."""
    opener = gzip.open if str(path).endswith(".gz") else open
    with opener(path, "rt", encoding="utf-8") as file:
        rows = [json.loads(line) for line in file if line.strip()]
    for number, row in enumerate(rows, 1):
        missing = {"docs", "question", "answers"} - row.keys()
        if missing or not row["docs"] or not row["answers"]:
            raise ValueError(f"{path}, row {number}: needs docs, question and answers, none of them empty")
    return rows


def example(row, template, encoder, end_ids, rng):
    """A row with its documents in random order, so that no place is learnt instead of a document."""
    documents = [(document.get("title"), document["text"]) for document in row["docs"]]
    rng.shuffle(documents)
    parts = encoder.encode(template.prompt(documents, row["question"]))
    answer = encoder.answer(template, row["answers"][0], end_ids)
    names = [*range(len(parts) - 1), FINAL]
    tokens = [token for part in parts for token in part] + answer
    owners = [name for name, part in zip(names, parts) for _ in part] + [FINAL] * len(answer)
    return Example(tokens, owners, len(answer))


@dataclass
class Batch:
    """Padded on the right."""

    tokens: torch.Tensor  # [num_rows, num_tokens]
    mask: torch.Tensor  # bool, true where a token sees another, [num_rows, 1, num_tokens, num_tokens]
    positions: torch.Tensor  # [num_rows, num_tokens]
    labels: torch.Tensor  # the next token where it is learnt, else -100, [num_rows, num_tokens]

    def to(self, device):
        return Batch(*(tensor.to(device) for tensor in (self.tokens, self.mask, self.positions, self.labels)))


def block_mask(parts):
    """Who sees whom, from the part of each token: `[.., num_tokens]` to `[.., 1, num_tokens, num_tokens]`."""
    query, key = parts.unsqueeze(-1), parts.unsqueeze(-2)
    num_tokens = parts.shape[-1]
    is_causal = torch.ones(num_tokens, num_tokens, dtype=torch.bool, device=parts.device).tril()
    return (is_causal & ((query == key) | (query == FINAL))).unsqueeze(-3)


def collate(examples):
    """Examples as one batch."""
    num_tokens = max(len(item.tokens) for item in examples)
    tokens = torch.zeros(len(examples), num_tokens, dtype=torch.long)
    parts = torch.full((len(examples), num_tokens), PADDING, dtype=torch.long)
    labels = torch.full((len(examples), num_tokens), -100, dtype=torch.long)
    for row, item in enumerate(examples):
        end = len(item.tokens)
        tokens[row, :end] = torch.tensor(item.tokens)
        parts[row, :end] = torch.tensor(item.parts)
        # The token before each learnt one predicts it.
        labels[row, end - item.num_answer - 1 : end - 1] = tokens[row, end - item.num_answer : end]
    positions = torch.arange(num_tokens).expand(len(examples), -1).clone()
    return Batch(tokens, block_mask(parts), positions, labels)


def batches(rows, make, batch_size, block_share, max_tokens, seed):
    """Endless batches, reshuffled every epoch; a share of the rows in block mode, the rest in full attention."""
    rng = random.Random(seed)
    pending, num_kept = [], 1
    while num_kept:
        num_kept = 0
        for row in rng.sample(rows, len(rows)):
            item = make(row, rng)
            item = item if rng.random() < block_share else item.full()
            if len(item.tokens) > max_tokens:
                continue
            num_kept += 1
            pending.append(item)
            if len(pending) == batch_size:
                yield collate(pending)
                pending = []
    raise ValueError(f"every row is longer than {max_tokens} tokens; raise --max-tokens or shorten the documents")
