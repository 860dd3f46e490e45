"""Ask the sample model what it was taught, and what it was not: python -m sample.evaluate.

Answers are greedy. *Right* is the exact answer, ended by the model itself; *readable* is the exact
text of any answer of the corpus, be it the right one or not.
"""

import argparse
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerFast
from transformers.modeling_utils import PreTrainedModel
from transformers.utils.logging import disable_progress_bar

from sample import corpus
from sample.corpus import Corpus, Message

MODEL: Final = (
    Path(__file__).resolve().parent.parent / "services" / "engineshed" / "catalog" / "sample"
)
_BATCH: Final = 96
_LONGEST_ANSWER: Final = 128


@dataclass(frozen=True, slots=True)
class Case:
    """A conversation that ends with a question, and the answer to it."""

    messages: tuple[Message, ...]
    answer: str


def main() -> None:
    """Print a table of how many answers are right, in float32 and in bfloat16."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("model", nargs="?", type=Path, default=MODEL, help="checkpoint directory")
    parser.add_argument("--verbose", action="store_true", help="show what is not right")
    arguments = parser.parse_args()
    disable_progress_bar()
    torch.set_num_threads(2)
    report(arguments.model, corpus.load(), verbose=arguments.verbose)


def report(directory: Path, taught: Corpus, *, verbose: bool = False) -> None:
    """Ask the model in `directory` everything and print how it did."""
    tokenizer = AutoTokenizer.from_pretrained(directory, local_files_only=True)
    readable = {fact.answer for fact in taught.facts}
    for dtype in (torch.float32, torch.bfloat16):
        model = AutoModelForCausalLM.from_pretrained(directory, dtype=dtype, local_files_only=True)
        for name, cases in _sets(taught).items():
            answers = list(_answers(model.eval(), tokenizer, cases))
            pairs = list(zip(cases, answers, strict=True))
            right = sum(answer == case.answer for case, answer in pairs)
            known = sum(answer in readable for answer in answers)
            print(
                f"{str(dtype).removeprefix('torch.'):9} {name:44} {len(cases):5} questions, "
                f"right {right / len(cases):6.1%}, readable {known / len(cases):6.1%}",
                flush=True,
            )
            for case, answer in pairs:
                if verbose and answer != case.answer:
                    print(f"    {case.messages[-1].content!r}: {answer!r}")


def _sets(taught: Corpus) -> dict[str, list[Case]]:
    questions = [(question, fact) for fact in taught.facts for question in fact.questions]
    some = questions[::4]  # enough to see what stands before a question change its answer
    helpful = Message("system", taught.system_prompts[0])
    strange = [Message("system", text) for text in taught.held_out_system_prompts]
    turns = [_turn(question, fact) for question, fact in questions]
    return {
        "taught": [_case(q, f) for q, f in questions],
        "taught, with a system prompt": [_case(q, f, helpful) for q, f in some],
        "taught, with a system prompt never seen": [
            _case(q, f, strange[i % len(strange)]) for i, (q, f) in enumerate(some)
        ],
        "taught, after two other questions": [
            _case(q, f, *turns[i * 7 % len(turns)], *turns[(i * 11 + 500) % len(turns)])
            for i, (q, f) in enumerate(some)
        ],
        "never seen, in patterns for terms": [
            _case(q, f) for f in taught.facts for q in f.held_out_patterns
        ],
        "never seen, written by hand": [_case(q, f) for f in taught.facts for q in f.held_out],
    }


def _case(question: str, fact: corpus.Fact, *before: Message) -> Case:
    return Case((*before, Message("user", question)), fact.answer)


def _turn(question: str, fact: corpus.Fact) -> tuple[Message, Message]:
    return Message("user", question), Message("assistant", fact.answer)


def _answers(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, cases: list[Case]
) -> Iterator[str]:
    """Yield the greedy answers in order; one that does not end by itself ends in an ellipsis."""
    for start in range(0, len(cases), _BATCH):
        prompts = tokenizer.apply_chat_template(
            [
                [{"role": message.role, "content": message.content} for message in case.messages]
                for case in cases[start : start + _BATCH]
            ],
            add_generation_prompt=True,
            padding=True,
            return_tensors="pt",
            return_dict=True,
        )
        with torch.inference_mode():
            output = model.generate(**prompts, max_new_tokens=_LONGEST_ANSWER, do_sample=False)
        for new in output[:, prompts["input_ids"].shape[1] :].tolist():
            text: str = tokenizer.decode(new, skip_special_tokens=True)
            yield text if tokenizer.eos_token_id in new else text + " ..."


if __name__ == "__main__":
    main()
