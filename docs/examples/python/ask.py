#!/usr/bin/env python3
"""Puts three documents on a running server and asks about them in two orders.

The server computes the keys and values of a document once, when it is put. A question then names documents in any order
and pays for its own words only, which the printed token counts show.
"""

import argparse
import importlib
import pathlib
import sys
import tempfile

import grpc
import grpc_tools
from grpc_tools import protoc

PROTO = pathlib.Path(__file__).resolve().parents[3] / "proto"
SYSTEM = "Answer the question with a short phrase from the documents."
# A title line and a text line, each on one line: the form that the embedded model was tuned for.
DOCUMENTS = {
    "MV Swallow": "The MV Swallow is a ferry. Her captain is Maria Stone. She is 42 metres long.",
    "Hill Boats": "Hill Boats is a small company. It was founded in 1921 by David Hill.",
    "Gull Rock Lighthouse": "Gull Rock Lighthouse is made of granite. It is 31 metres tall.",
}
QUESTIONS = [
    ("Who is the captain of the MV Swallow?", ["MV Swallow", "Hill Boats", "Gull Rock Lighthouse"]),
    ("Who founded Hill Boats?", ["Gull Rock Lighthouse", "Hill Boats", "MV Swallow"]),
]


def generated_modules():
    """Compiles `proto/` into a temporary folder and imports what comes out."""
    out = tempfile.mkdtemp(prefix="lazyattn-stubs-")
    well_known = pathlib.Path(grpc_tools.__file__).parent / "_proto"
    files = sorted(str(path.relative_to(PROTO)) for path in PROTO.rglob("*.proto"))
    paths = [f"-I{PROTO}", f"-I{well_known}", f"--python_out={out}", f"--grpc_python_out={out}"]
    if protoc.main(["protoc", *paths, *files]) != 0:
        sys.exit("the files in proto/ do not compile")
    sys.path.insert(0, out)
    names = ["types_pb2", "document_service_pb2", "document_service_pb2_grpc"]
    names += ["generation_service_pb2", "generation_service_pb2_grpc"]
    return [importlib.import_module(f"lazyattn.v1.{name}") for name in names]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("server", nargs="?", default="127.0.0.1:50051", help="address of a `lazyattn serve`")
    parser.add_argument("--key-file", type=pathlib.Path, help="file with the API key, if the server wants one")
    arguments = parser.parse_args()
    metadata = []
    if arguments.key_file:
        metadata.append(("authorization", f"Bearer {arguments.key_file.read_text().strip()}"))

    types, documents_pb, documents_grpc, generation_pb, generation_grpc = generated_modules()
    with grpc.insecure_channel(arguments.server.removeprefix("http://")) as channel:
        store = documents_grpc.DocumentServiceStub(channel)
        names = {}
        for title, text in DOCUMENTS.items():
            request = documents_pb.PutDocumentRequest(text=f"Title: {title}\n{text}\n\n", display_name=title)
            answer = store.PutDocument(request, metadata=metadata, timeout=60)
            names[title] = answer.document.name
            print(f"put {title}: {answer.document.token_count} tokens, {answer.prefilled_tokens} computed now")

        generation = generation_grpc.GenerationServiceStub(channel)
        for question, order in QUESTIONS:
            chat = types.Chat(
                messages=[
                    types.Message(role=types.ROLE_SYSTEM, content=[types.Part(text=SYSTEM)]),
                    types.Message(role=types.ROLE_USER, content=[types.Part(text=f"Question: {question}")]),
                ],
                documents=[types.Part(document=names[title]) for title in order],
            )
            request = generation_pb.GenerateRequest(
                chat=chat,
                attention=types.DOCUMENT_ATTENTION_BLOCK,
                stopping=types.StoppingOptions(max_tokens=16),
            )
            print(f"\n{question}\n  ", end="")
            for event in generation.Generate(request, metadata=metadata, timeout=60):
                if event.HasField("delta"):
                    print(event.delta.text, end="", flush=True)
                elif event.HasField("done"):
                    usage = event.done.usage
                    print(
                        f"\n  {usage.cached_prompt_tokens} of {usage.prompt_tokens} prompt tokens cached, "
                        f"{usage.documents_reused} of {usage.documents_total} documents reused"
                    )


if __name__ == "__main__":
    try:
        main()
    except grpc.RpcError as error:
        sys.exit(f"error: {error.code().name}: {error.details()}")
