"""The tables of project.toml: every key with its type, unit, default and reason, in the one place that defines it.

`spec` reads project files into these models, `loraworkbench new` writes the commented file from them, and an editor
can complete and explain keys from them. Everything is frozen and strict: "3" is not 3, an unknown key is an error.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field


class Table(BaseModel):
    """One table of the file; the class docstring is its heading."""

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid", validate_default=True, allow_inf_nan=False)


def key(default: Any, doc: str, *, unit: str = "", why: str = "", **limits: Any) -> Any:
    """A documented key: what it is, its unit, why the default is what it is. Whole numbers have 64 bits, as in TOML."""
    if isinstance(limits.get("ge"), int):
        limits.setdefault("le", 2**63 - 1)
    return Field(default=default, description=doc, json_schema_extra={"unit": unit, "why": why}, **limits)


class ProjectTable(Table):
    """What this project is called."""

    name: str = key("", "Name shown in lists; empty: the folder's name.", why="the folder says it already")
    description: str = key("", "A sentence for people.", why="nothing depends on it")


class ModelTable(Table):
    """The base model that is adapted."""

    base: str = key(
        "starter",
        'A Hub id ("Qwen/Qwen3-0.6B-Base"), a folder, or "starter" (the small model that comes with the workbench).',
        why="the starter needs no network and no GPU",
        min_length=1,
    )
    revision: str | None = key(
        None, "Branch, tag or commit of a Hub model.", why="the newest commit; naming one makes a run repeatable"
    )
    quantization: Literal["none", "int8", "nf4", "fp4"] = key(
        "nf4",
        "How the frozen base is held in memory.",
        why="NF4 is a quarter of 16 bits and loses the least of the two 4-bit codes",
    )
    double_quantization: bool = key(
        True, "Also quantize the scales of nf4 and fp4.", why="saves 0.4 bit a weight at no measurable loss"
    )
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = key(
        "auto",
        "Type of the unquantized weights and of the arithmetic.",
        why="auto is bfloat16 where the device computes in it, else float32",
    )
    attention: Literal["auto", "varlen", "sdpa", "eager", "flash_attention_2", "flash_attention_3"] = key(
        "auto",
        "Attention implementation.",
        why="auto is the fastest that is proved, when the model is loaded, to keep packed examples apart",
    )
    trust_remote_code: bool = key(
        False, "Run Python code from the model's repository.", why="such code can do anything you can"
    )


class DataTable(Table):
    """What is learned from, and what is kept unseen for measuring."""

    train: str = key(
        "data/word_problems/train.jsonl",
        'A file or folder relative to the workspace, or "hub:NAME" (JSONL, JSON, CSV, TSV, Parquet, text).',
        why="the problems that come with the workbench",
        min_length=1,
    )
    test: str | None = key(
        None,
        "Unseen rows, never trained on; the same forms as `train`.",
        why="then `test_fraction` decides; without either nothing can be measured on unseen rows",
    )
    test_fraction: float = key(
        0.0,
        "Where there is no `test`: the share of rows kept unseen, chosen by `seed`.",
        why="rows are kept from training only where you ask for it",
        ge=0.0,
        lt=1.0,
    )
    seed: int = key(
        0,
        "Chooses the rows of `test_fraction`.",
        why="any number will do; the same one keeps the same rows unseen",
        ge=0,
    )
    subset: str | None = key(None, "Subset (configuration) of a Hub dataset.", why="the dataset's own default")
    train_split: str = key("train", "Split of a Hub dataset to train on.", why="what most datasets call it")
    test_split: str = key(
        "test", "Split of a Hub dataset to measure on (where `test` is a hub source).", why="what most datasets call it"
    )
    revision: str | None = key(
        None, "Branch, tag or commit of a Hub dataset.", why="the newest commit; naming one makes a run repeatable"
    )
    streaming: bool = key(
        False,
        "Read a Hub dataset as a stream instead of downloading all of it.",
        why="a download is read from disk again the next time",
    )
    train_limit: int | None = key(
        None,
        "Use at most this many rows for training, the first ones.",
        why="all rows; a few hundred make a quick trial",
        unit="rows",
        ge=1,
    )
    test_limit: int | None = key(
        None,
        "Use at most this many unseen rows, the first ones.",
        why="all rows; a few hundred make a quick trial",
        unit="rows",
        ge=1,
    )
    shape: Literal["auto", "messages", "sharegpt", "alpaca", "prompt_completion", "text"] = key(
        "auto", "What a row looks like.", why="auto detects it and shows what it found"
    )
    prompt_column: str | None = key(
        None, "Column of the prompt, where it is not detected.", why="usual names are found, and shown by `check`"
    )
    completion_column: str | None = key(
        None, "Column of the completion, where it is not detected.", why="usual names are found, and shown by `check`"
    )
    messages_column: str | None = key(
        None,
        "Column of the chat messages, where it is not detected.",
        why="usual names are found, and shown by `check`",
    )
    text_column: str | None = key(
        None, "Column of the text, where it is not detected.", why="usual names are found, and shown by `check`"
    )
    system_column: str | None = key(
        None,
        "Column of the system prompt, where it is not detected.",
        why="usual names are found, and shown by `check`",
    )
    template: Literal["auto", "chat", "format"] = key(
        "auto",
        "How a row becomes text: the tokenizer's chat template, or the two format strings below.",
        why="auto takes the chat template where the tokenizer has one, else the format strings",
    )
    system: str | None = key(
        None,
        "System prompt for rows that have none of their own (chat template).",
        why="none is invented: what is trained with it must be asked with it",
    )
    prompt_format: str = key(
        "Question: {prompt}\nAnswer:",
        'The prompt (template = "format"); {prompt} or any column of the row.',
        why="a form that base models have often seen",
    )
    completion_format: str = key(
        " {completion}",
        'The completion (template = "format"); starts with the space that separates it from the prompt.',
        why="most tokenizers join a space with the word after it, not with the colon before it",
    )
    max_refused: float = key(
        0.05,
        "Stop when more than this share of the rows cannot be used.",
        why="a few broken rows are normal, many are a mistake in the settings",
        ge=0.0,
        le=1.0,
    )


Rank = Annotated[int, Field(ge=1, le=4096)]
Alpha = Annotated[float, Field(gt=0.0)]
DecayRate = Annotated[float, Field(ge=0.0, lt=1.0)]


class LoraTable(Table):
    """The adapter: a product of two thin matrices beside each target (Hu et al. 2021, arXiv:2106.09685)."""

    r: Rank = key(16, "Rank of the update.", why="enough for most tasks; parameters and memory grow linearly with it")
    alpha: Alpha = key(
        32.0, "Scale of the update: it is multiplied by alpha / r.", why="twice the rank is the usual start"
    )
    dropout: float = key(
        0.0,
        "Dropout on the adapter's input while training.",
        why="short trainings seldom need it; try 0.05 where the unseen loss rises early",
        ge=0.0,
        lt=1.0,
    )
    target_modules: str | list[str] = key(
        "all-linear",
        'What gets an adapter: "all-linear", a list of module names, or a regular expression over full names.',
        why="all linear layers learn better than attention alone at the same number of parameters",
    )
    rslora: bool = key(
        False,
        "Scale by alpha / sqrt(r) (Kalajdzievski 2023, arXiv:2312.03732).",
        why="matters for ranks of 64 and more",
    )
    dora: bool = key(
        False,
        "Learn direction and magnitude apart (Liu et al. 2024, arXiv:2402.09353); slower.",
        why="plain LoRA is faster and merges exactly",
    )
    init: Literal["default", "gaussian", "pissa", "olora", "loftq"] = key(
        "default",
        "First values of the two matrices; pissa, olora and loftq start from a decomposition of the base.",
        why="default starts with an update of exactly zero",
    )
    lora_plus_ratio: float = key(
        1.0,
        "Learning rate of B over that of A (LoRA+, Hayou et al. 2024, arXiv:2402.12354).",
        why="one rate for both, as in the original method; LoRA+ recommends 16",
        ge=1.0,
    )
    rank_pattern: dict[str, Rank] = key(
        {}, "Other ranks for some modules: name or regular expression -> rank.", why="one rank for all"
    )
    alpha_pattern: dict[str, Alpha] = key(
        {}, "Other alphas for some modules: name or regular expression -> alpha.", why="one alpha for all"
    )
    modules_to_save: list[str] = key(
        [],
        "Modules trained in full and stored with the adapter, for example embed_tokens for new tokens.",
        why="each costs memory and disk like a whole layer",
    )


class TrainTable(Table):
    """How the adapter is trained."""

    epochs: float = key(
        3.0,
        "Passes over the training rows (where `steps` is 0).",
        why="a few passes are the rule for small datasets; the unseen loss says when it was too many",
        unit="epochs",
        gt=0.0,
    )
    steps: int = key(
        0, "Optimizer steps; 0: as many as `epochs` needs.", why="epochs grow with the data", unit="steps", ge=0
    )
    examples_per_step: int = key(
        16,
        "Examples (packs, when packing) whose gradient makes one step.",
        why="large enough for a calm gradient, small enough for many steps on little data",
        unit="examples",
        ge=1,
    )
    tokens_per_step: int = key(
        0,
        "Instead: fill each step with about this many tokens; 0: count examples.",
        why="examples are the usual unit",
        unit="tokens",
        ge=0,
    )
    micro_batch_tokens: int = key(
        4096,
        "At most this many tokens go through the model at once (one longer example still goes alone).",
        unit="tokens",
        why="changes memory and speed, never the result: a step has one denominator",
        ge=1,
    )
    packing: bool = key(
        False,
        "Join examples into packs of up to max_length before they are dealt to steps; they never see each other.",
        why="examples are never padded either way; packs make steps of equal size when lengths vary much",
    )
    max_length: int = key(
        1024,
        "Longest example.",
        why="enough for most instruction rows; `check` shows the lengths of yours",
        unit="tokens",
        ge=8,
    )
    overlong: Literal["cut", "refuse", "stop"] = key(
        "cut",
        "What happens to a longer row: cut its end, leave it out, or stop the run. All are counted.",
        why="the beginning of a long row still teaches; what is cut has no end to learn",
    )
    learning_rate: float = key(
        2e-4, "Highest learning rate.", why="LoRA wants about ten times that of full fine-tuning", gt=0.0
    )
    schedule: Literal["constant", "linear", "cosine"] = key(
        "cosine", "Course of the learning rate after the warm-up.", why="falls slowly at first and ends near zero"
    )
    warmup: float = key(
        0.03,
        "Share of the steps over which the learning rate rises from zero.",
        why="the optimizer's averages are poor in the first steps",
        ge=0.0,
        le=1.0,
    )
    minimum_learning_rate: float = key(
        0.0, "Where the schedule ends, as a share of learning_rate.", why="the last steps only settle", ge=0.0, le=1.0
    )
    optimizer: Literal["adamw", "adamw_8bit", "paged_adamw", "paged_adamw_8bit"] = key(
        "adamw",
        "AdamW of torch, or of bitsandbytes with 8-bit or paged state (needs a GPU).",
        why="an adapter's optimizer state is small beside the base, so 8 bits save little",
    )
    betas: list[DecayRate] = key(
        [0.9, 0.999],
        "AdamW's two decay rates.",
        why="AdamW's usual ones (Loshchilov and Hutter 2019, arXiv:1711.05101)",
        min_length=2,
        max_length=2,
    )
    epsilon: float = key(1e-8, "AdamW's epsilon.", why="AdamW's usual one", gt=0.0)
    weight_decay: float = key(
        0.0, "Decoupled weight decay on the adapter's matrices.", why="a low rank is already a restraint", ge=0.0
    )
    max_gradient_norm: float = key(
        1.0, "Clip the gradient to this norm; 0: never.", why="one odd batch cannot throw the weights far", ge=0.0
    )
    seed: int = key(
        0,
        "Order, dropout and initial values are functions of it and the step.",
        why="any number will do; the same one gives the same run",
        ge=0,
    )
    activation_checkpointing: bool = key(
        False,
        "Recompute activations in the backward pass: less memory, about a quarter slower, the same result.",
        why="only worth its time where memory is short",
    )
    evaluate_every: int = key(
        0,
        "Measure the unseen loss every N steps; 0: only at the end.",
        why="each measurement takes the time of a few steps",
        unit="steps",
        ge=0,
    )
    evaluate_rows: int = key(
        64,
        "Unseen rows for that measurement.",
        why="enough to see the loss turn, few enough to be quick",
        unit="rows",
        ge=1,
    )
    sample_every: int = key(
        0,
        "Answer prompts every N steps, too; 0: only `generate.prompts`, at every evaluation.",
        why="each time costs as long as the answers take",
        unit="steps",
        ge=0,
    )
    save_every: int = key(
        100,
        "Write a checkpoint every N steps; 0: only when stopped and at the end.",
        why="what a crash can lose at most; a checkpoint is as small as the adapter and its optimizer",
        unit="steps",
        ge=0,
    )
    keep_checkpoints: int = key(
        2,
        "Checkpoints to keep, the newest (and the best one).",
        unit="checkpoints",
        why="the newest to go on from, and the one before it to look back",
        ge=1,
    )
    early_stopping: int = key(
        0,
        "Stop when the unseen loss has not improved in this many measurements, and keep the best; 0: never.",
        unit="measurements",
        why="needs `evaluate_every`, and patience of a few measurements",
        ge=0,
    )


class EvalTable(Table):
    """How base and adapters are measured."""

    train_rows: int = key(
        100,
        "Training rows to measure on, a seeded sample; 0: none.",
        why="enough to see whether rows were learned by heart",
        unit="rows",
        ge=0,
    )
    test_rows: int = key(
        0,
        "Unseen rows to measure on, a seeded sample; 0: all.",
        why="every unseen row makes the interval narrower",
        unit="rows",
        ge=0,
    )
    window: int = key(
        0,
        "Longest context for perplexity; longer texts are scored in windows, every token once; 0: the model's limit.",
        why="more context than a model was made for makes its figures worse",
        unit="tokens",
        ge=0,
    )
    batch_tokens: int = key(
        8192,
        "Tokens scored at once; changes memory, never the sums.",
        why="a batch that fits beside the base on most machines",
        unit="tokens",
        ge=1,
    )
    exact_match: Literal["auto", "none", "gsm8k", "last_number", "text", "regex"] = key(
        "auto",
        "How the answer is read off a generated text and off the reference.",
        why="auto is gsm8k where references hold a `####` line, else none",
    )
    answer_pattern: str = key(
        "", 'exact_match = "regex": the first group of the first match is the answer.', why="only needed for regex"
    )
    match_rows: int = key(
        200,
        "Rows of each split to generate answers for; 0: all.",
        why="generating is slow; 200 rows give a 95 % interval of about 7 points either way",
        unit="rows",
        ge=0,
    )
    bootstrap: int = key(
        1000,
        "Resamples of rows for the 95 % interval.",
        unit="resamples",
        why="the ends of a 95 % interval hardly move with more",
        ge=100,
    )
    seed: int = key(
        0,
        "Chooses the sampled rows and the resamples.",
        why="any number will do; the same one chooses the same rows",
        ge=0,
    )


class GenerateTable(Table):
    """How texts are generated."""

    max_new_tokens: int = key(256, "Longest answer.", why="most answers end before by themselves", unit="tokens", ge=1)
    temperature: float = key(
        0.0,
        "0 is greedy: always the likeliest token.",
        why="the same answer every time, which is what comparisons need",
        ge=0.0,
    )
    top_p: float = key(
        1.0,
        "Sample from the smallest set of tokens with this much probability.",
        why="leaves the model's probabilities as they are",
        gt=0.0,
        le=1.0,
    )
    top_k: int = key(
        0, "Sample from this many likeliest tokens; 0: all.", why="leaves the model's probabilities as they are", ge=0
    )
    seed: int = key(0, "The same seed gives the same text.", why="any number will do", ge=0)
    stop: list[str] = key(
        [],
        "Texts that end an answer, besides the tokenizer's stop tokens.",
        why="a trained adapter has learned the stop token",
    )
    prompts: list[str] = key(
        [],
        "Prompts that are answered at every evaluation while training, and to compare with; empty: unseen rows.",
        why="unseen rows are what the adapter is for",
    )


class LaunchTable(Table):
    """Where and how the work is started."""

    device: str = key(
        "auto",
        '"auto", "cpu", "cuda" or "cuda:N".',
        why="the GPU where there is one, else the CPU",
        pattern=r"^(auto|cpu|cuda(:\d+)?)$",
    )
    threads: int = key(
        0, "CPU threads; 0: one a core.", unit="threads", why="more threads than cores only wait for each other", ge=0
    )
    offline: bool = key(
        False,
        "Never ask the network, use what is on disk.",
        why="Hub names need the network once; after that the cache has them",
    )
    processes: int = key(
        1,
        "Processes that train together on each machine, each with a share of every step's rows.",
        unit="processes",
        why="one a GPU is what helps; one process already uses all cores of a CPU",
        ge=1,
    )
    machines: int = key(
        1,
        "Machines that train together; more than one are started with `loraworkbench launch-script`.",
        unit="machines",
        why="the others must see the same workspace",
        ge=1,
    )
    strategy: Literal["data", "fsdp"] = key(
        "data",
        "What each of several processes holds of the base: all of it, or (fsdp) a part of every layer, for bases that do "
        "not fit one card.",
        why="only the adapter's gradients are exchanged; fsdp gathers every layer for every pass",
    )


class Project(Table):
    """A whole project file."""

    project: ProjectTable = ProjectTable()
    model: ModelTable = ModelTable()
    data: DataTable = DataTable()
    lora: LoraTable = LoraTable()
    train: TrainTable = TrainTable()
    eval: EvalTable = EvalTable()
    generate: GenerateTable = GenerateTable()
    launch: LaunchTable = LaunchTable()


TABLES: dict[str, type[Table]] = {
    name: field.annotation  # type: ignore[misc]
    for name, field in Project.model_fields.items()
}
