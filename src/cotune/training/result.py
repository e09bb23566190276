"""What a finished run says of itself: scores, baselines without training, text kept, experts parted, costs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import Console

from cotune.adapters.attach import AdapterHandle
from cotune.adapters.site_adapters import SiteAdapters
from cotune.evaluation.answer_settings import adapter_digest, answer_settings
from cotune.evaluation.answers_folder import AnswersFolder
from cotune.evaluation.priors import majority, question_only
from cotune.evaluation.retention import text_retention
from cotune.evaluation.tasks import TASKS, Scores, score
from cotune.evaluation.text_loss import read_text, text_loss
from cotune.model.loading import load_llm
from cotune.model.multimodal_lm import MultimodalLM
from cotune.model.shared_weights import share_weights
from cotune.recipe import COMPONENT_MEDIUM
from cotune.run_folder import RunFolder
from cotune.trace import Trace
from cotune.training.loop import TrainingLoop
from cotune.training.model_and_data import Prepared
from cotune.training.peak_memory import peak_memory_bytes
from cotune.training.routing_record import record_routing
from cotune.training.sharding import is_sharded, shard_layers
from cotune.training.task_scoring import TaskScoring
from cotune.training.validation import final_held_out_loss
from cotune.training.versions import versions

ACCURACIES = ("accuracy", "open_accuracy", "yes_no_accuracy")
BASELINES = ("majority", "question_only", "text_only", "connector_only", "random_encoder", "lora")


def finished_result(
    prepared: Prepared, loop: TrainingLoop, run: RunFolder, trace: Trace, tasks: TaskScoring
) -> dict[str, Any]:
    """Score the test set and the further tasks, and return everything `result.json` says."""
    recipe, console = prepared.recipe, prepared.console
    scores: Scores = {}
    baselines: dict[str, Scores | None] = dict.fromkeys(BASELINES)
    test, task = prepared.samples.test, recipe.evaluation.task
    if test:
        scores = _test_scores(prepared, run)
        for name, rule in (("majority", majority), ("question_only", question_only)):
            baselines[name] = compared_scores(task, score(task, rule(prepared.samples.all_train, test)))
    about = {"name": recipe.name, "task": task, "main_score": TASKS[task].main}
    result: dict[str, Any] = about | dict.fromkeys(ACCURACIES) | scores
    result["tasks"] = tasks.at_end(trace, loop.step)
    result["held_out_loss"] = final_held_out_loss(prepared, trace, loop.step)
    result |= _text_kept(prepared, console)
    result["baselines"] = baselines
    result["steps"] = loop.step
    result["overflows"] = loop.costs.overflows
    result["processes"] = prepared.processes.size
    result["seconds"] = round(loop.costs.seconds, 1)
    result["tokens_per_second"] = round(loop.costs.tokens_per_second, 1)
    result["loss_tokens"] = loop.costs.loss_tokens
    result["padding_share"] = round(loop.costs.padding / max(1, loop.costs.padding + loop.costs.tokens), 4)
    result["trainable_parameters"] = sum(part.trainable_count for part in loop.components.values())
    result["peak_memory_bytes"] = peak_memory_bytes()
    result["counts"] = dict(prepared.samples.counts + loop.batches.counts() + loop.counts())
    result["too_long"] = loop.batches.too_long.named
    for what, number in loop.batches.counts().items():
        console.print(f"[yellow]{what}: {number:,} draws, of {', '.join(result['too_long'])}[/]")
    result["coordination"] = loop.coordinator.summary()
    for sentence in result["coordination"]["sentences"]:
        console.print(f"[yellow]{sentence}[/]")
    record_routing(prepared.model, trace, loop.step)
    result |= _experts_parted(prepared.model, loop.step, trace, console)
    result["versions"] = versions()
    result["seed"] = recipe.seed
    trace.write(
        "test",
        loop.step,
        main=TASKS[task].main,
        scores=scores,
        **{key: result[key] for key in ("text_kl", "text_agreement")},
    )
    return result


def _test_scores(prepared: Prepared, run: RunFolder) -> Scores:
    """Return the scores on the test set; a run that was stopped while it answered goes on where it was."""
    answers, test = AnswersFolder(run.path), prepared.samples.test
    settings = answer_settings(prepared.recipe, adapter_digest(run))
    prepared.processes.on_main(lambda: answers.begin(settings, test, other="replace"))
    scores, predictions = prepared.evaluate(test, "Scoring the test set", folder=answers)
    prepared.processes.on_main(lambda: answers.finish(predictions, {"settings": settings, "scores": scores}))
    return scores


def _experts_parted(model: MultimodalLM, step: int, trace: Trace, console: Console) -> dict[str, Any]:
    """Print, record and return how far the experts have parted: the language model's, and those of every encoder."""
    found = {} if model.adapters is None else {"llm": model.adapters.separation()}
    for component, medium in COMPONENT_MEDIUM.items():
        adapters = model.encoder(medium).adapters if medium in model.encoders else None
        if isinstance(adapters, AdapterHandle | SiteAdapters):
            found[component] = adapters.separation()
    for component, separation in found.items():
        console.print(f"Experts of {component}: {separation['verdict']}")
        trace.write("experts", step, component=component, **separation)
    return {"expert_separation": found.pop("llm", None), "encoder_expert_separation": found}


def compared_scores(task: str, scores: Mapping[str, Any]) -> Scores:
    """Return the scores that a run and its baselines are compared by: the task's, and the accuracies."""
    return {name: scores.get(name) for name in dict.fromkeys((*TASKS[task].headline, *ACCURACIES))}


def _text_kept(prepared: Prepared, console: Console) -> dict[str, Any]:
    if not prepared.recipe.evaluation.text_retention:
        return dict.fromkeys(("text_kl", "text_agreement", "text_reply", "text_loss"))
    with console.status("Comparing the text path with the base model"):
        base = _base(prepared)
        kept = text_retention(base, prepared.model)
        loss = text_loss(base, prepared.model, read_text(prepared.recipe.evaluation.text_file))
    return {
        "text_kl": kept.kl,
        "text_agreement": kept.agreement,
        "text_reply": f"{kept.question} {kept.reply}",
        "text_loss": loss.as_result(),
    }


def _base(prepared: Prepared) -> Any:
    """Return the language model loaded anew, which needs no room for a weight that tuning left as it was.

    Sharded where the tuned one is; its shards are its own.
    """
    base = load_llm(prepared.recipe.model.llm, prepared.model.device)
    if is_sharded(prepared.recipe, prepared.processes):
        shard_layers(base, prepared.processes)
    else:
        share_weights(base, prepared.model.llm)
    return base.to(prepared.model.device)
