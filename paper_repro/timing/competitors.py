"""The competitors of a timing table of text classifiers: what they need, made once, and their three columns."""

import copy
import shutil
from collections.abc import Callable
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import psutil
import torch
import torch.nn.functional as F
from filelock import FileLock
from scipy.sparse import vstack
from torch import Tensor, nn

from paper_repro import data, seeds, zoo
from paper_repro.config import sha256_key
from paper_repro.data.ngrams import Bags, Vocabulary
from paper_repro.data.ragged import RaggedIds
from paper_repro.data.text import TextSplit, Tokens
from paper_repro.distill.export import Student, export_student
from paper_repro.distill.ngram_student import NgramSpec
from paper_repro.distill.rows import Precision
from paper_repro.errors import UserError
from paper_repro.paths import cache_dir, write_atomic
from paper_repro.timing.peers import OnnxMiniLM, counter, missing_package, predictor, shared
from paper_repro.timing.text import PEERS, STUDENTS, Competitor, Cost, Net, TextTiming
from paper_repro.zoo import minilm
from paper_repro.zoo.dan import Dan

if TYPE_CHECKING:
    from tokenizers import Tokenizer

PRECISIONS: dict[str, Precision] = {"dan": "fp32", "dan-bf16": "bf16", "dan-int8": "int8"}
ONE_CORE = "-1core"
SPECIAL = ("<s>", "<pad>", "</s>", "<unk>", "<mask>")  # RoBERTa's, in its order: 1 is padding
LONGEST_BAG = 2_048  # n-grams of a text that the released code keeps
PARTS = 4  # of alike lengths, in which MiniLM runs a batch in ONNX Runtime
BLOCK_ROWS = 10_000  # random rows of a table, which then repeat: drawing a billion numbers would take a minute


class Unavailable(Exception):
    """A competitor cannot be timed here; the message says what is missing."""


def build(materials: "Materials") -> tuple[dict[str, Competitor], dict[str, str]]:
    """The competitors by name, and for those that cannot be timed here, why not.

    Raises UserError for a name that does not exist or comes twice.
    """
    config = materials.config
    makers: list[tuple[str, Callable[[], Competitor]]] = []
    makers += [(net.name, partial(_net, net, materials)) for net in config.nets]
    for kind, names, known in (("student", config.students, STUDENTS), ("peer", config.peers, PEERS)):
        for name in names:
            plain = name.removesuffix(ONE_CORE)
            if plain not in known or (plain != name and plain in ("dan-torch", "dan-padded")):
                raise UserError(f"There is no {kind} '{name}' to time; choose from {', '.join(known)}.")
            threads = 1 if plain != name else materials.threads
            makers.append((name, partial(_student if kind == "student" else _peer, plain, threads, materials)))
    competitors: dict[str, Competitor] = {}
    skipped: dict[str, str] = {}
    for name, make in makers:
        if name in competitors or name in skipped:
            raise UserError(f"Two competitors are called '{name}'; rename one.")
        try:
            competitors[name] = make()
        except Unavailable as reason:
            skipped[name] = str(reason)
    return competitors, skipped


class Materials:
    """What competitors are made of, each made once and only when one of them asks for it. ``folder``: for big files."""

    def __init__(self, config: TextTiming, device: str, folder: Path, seed: int) -> None:
        self.config, self.device, self.folder, self.seed = config, device, folder, seed
        self.threads = config.threads or psutil.cpu_count() or 1
        self.closing: list[Callable[[], None]] = []
        self._networks: dict[str, nn.Module] = {}
        self._students: list[Student] = []

    def close(self) -> None:
        """End the processes that were started."""
        for close in self.closing:
            close()

    def protocol(self) -> dict[str, Any]:
        """How it was set up."""
        return {
            "weights": "random, but of the peers that are fitted",
            "input": "real",
            "batch_size": self.config.batch,
            "device": self.device,
            "precision": "fp32",
            "mode_of_model": "eval, inference_mode, eager",
            "threads": self.threads,
            "sharing": "networks on all threads by torch; our runtime on threads of its own, where a batch is worth "
            "waking them; sub-word tokenisers on threads of their own library, all cores; peers in Python on as many "
            "processes; -1core: on one",
            "bpe": f"RoBERTa's cannot be had offline: a byte-level BPE of {self.config.subwords} entries learnt from "
            "the same texts as the n-grams; what tokenising costs is the algorithm's",
            "cut": f"sub-words at {self.config.max_length}; n-grams not, but for dan-padded at {LONGEST_BAG}",
        }

    @cached_property
    def train(self) -> TextSplit:
        """The training set: classes, and what peers are fitted on."""
        return data.load_texts(self.config.dataset, "train")

    @cached_property
    def collections(self) -> list[tuple[TextSplit, np.ndarray]]:
        """The texts that n-grams and sub-words are learnt from."""
        parts = [self.train, *(corpus.load() for corpus in self.config.corpora)]
        return [(part, np.arange(len(part.texts))) for part in parts]

    @cached_property
    def vocabulary(self) -> Vocabulary:
        """The most frequent 1- to 4-grams, as many as the table has rows or as there are."""
        found = NgramSpec(vocab=self.config.rows, dim=1).features(self.collections)
        assert isinstance(found, Vocabulary)
        return found

    @cached_property
    def bpe(self) -> "Tokenizer":
        """A byte-level BPE of RoBERTa's size, learnt once and kept in the cache."""
        from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

        names = [part.fingerprint for part, _ in self.collections]
        path = cache_dir() / "tokenizers" / f"bpe-{sha256_key([names, self.config.subwords])}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(path.with_suffix(".lock")):
            if not path.exists():
                tokenizer = Tokenizer(models.BPE())
                tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
                tokenizer.decoder = decoders.ByteLevel()
                trainer = trainers.BpeTrainer(
                    vocab_size=self.config.subwords, min_frequency=2, special_tokens=list(SPECIAL),
                    initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False,
                )  # fmt: skip
                tokenizer.train_from_iterator((text for part, _ in self.collections for text in part.texts), trainer)
                tokenizer.post_processor = processors.TemplateProcessing(
                    single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 2)]
                )
                write_atomic(path, tokenizer.to_str())
        return Tokenizer.from_file(str(path))

    def network(self, net: Net) -> nn.Module:
        """The network with random weights; those that differ in how they are run share it."""
        key = sha256_key([net.model, net.options])
        if key not in self._networks:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(seeds.derive(self.seed, "timing weights", role=key))
                model = zoo.build(net.model, len(self.train.classes), **net.options)
            self._networks[key] = model.eval().to(self.device)
        return self._networks[key]

    def reader(self, tokenizer: Literal["bpe", "wordpiece"], device: str) -> "SubWords":
        """The tokeniser of that name. Raises Unavailable for word pieces where MiniLM's files are not."""
        if tokenizer == "wordpiece":
            self.check_minilm("tokenizer.json")
            return SubWords(zoo.load_tokenizer("minilm-l6"), 0, self.config.max_length, device)
        return SubWords(self.bpe, SPECIAL.index("<pad>"), self.config.max_length, device)

    def check_minilm(self, file: str) -> None:
        """Raises Unavailable where this file of MiniLM-L6 is not to be had."""
        try:
            minilm.find_file(file)
        except UserError as error:
            raise Unavailable(str(error)) from None

    def share(self, make: Callable[[], Callable[[Any], Any]], threads: int) -> Callable[[list[str]], list[Any]]:
        """What ``make`` returns, its work shared out among processes; a list of the values on the parts."""
        function, workers = shared(make, threads)
        if workers is not None:
            self.closing.append(workers.close)
        return function

    @cached_property
    def dan(self) -> Dan:
        """The student as a module: random rows, the last of them zero (what dan-padded pads with)."""
        rows, dim = self.vocabulary.size, self.config.dim
        self._check_room(rows, dim)
        with torch.device("meta"):
            model = Dan(len(self.train.classes), rows, dim)
        model = model.to_empty(device="cpu").eval()
        generator = torch.Generator().manual_seed(seeds.derive(self.seed, "timing weights", role="dan"))
        block = 0.1 * torch.randn(min(BLOCK_ROWS, rows), dim, generator=generator)
        with torch.no_grad():
            for start in range(0, rows, len(block)):
                stop = min(start + len(block), rows)
                model.table.weight[start:stop] = block[: stop - start]
            model.table.weight[-1] = 0
            for layer in (*model.layers, model.head):
                layer.weight.normal_(std=dim**-0.5, generator=generator)
                layer.bias.zero_()
        return model

    def _check_room(self, rows: int, dim: int) -> None:
        table = 4 * rows * dim
        free, disk = psutil.virtual_memory().available, shutil.disk_usage(self.folder).free
        if free < 3 * table or disk < 2 * table:
            raise UserError(
                f"Timing a table of {rows:,} x {dim:,} takes {3 * table / 1e9:.1f} GB of memory and "
                f"{2 * table / 1e9:.1f} GB of disk, but {free / 1e9:.1f} and {disk / 1e9:.1f} GB are free; make rows "
                "or dim smaller."
            )

    def student(self, precision: Precision, threads: int) -> Student:
        """The exported student; those of one precision share its table."""
        folder = self.folder / precision
        if not folder.exists():
            export_student(self.dan, self.vocabulary, self.train.classes, folder, precision=precision)
        student = Student.load(folder)
        student.threads = threads
        self._students.append(student)
        return student

    def read_tables(self) -> None:
        """Bring the students' tables back into memory: whatever was made after them may have driven them out."""
        for student in self._students:
            student.table.view(np.uint8)[:, ::1024].max()  # each page once

    @cached_property
    def sample(self) -> tuple[list[str], np.ndarray]:
        """Texts and labels that peers are fitted on: the first of each class in a seeded order, in equal shares."""
        labels = self.train.labels
        order = seeds.numpy_rng(self.seed, "timing fit").permutation(len(labels))
        each = max(1, self.config.fitted_on // len(self.train.classes))
        rows = np.concatenate([order[labels[order] == label][:each] for label in np.unique(labels)])
        return [self.train.texts[row] for row in rows], labels[rows]


class SubWords:
    """Texts to (ids, mask), int64 [B, T], T the longest of the batch."""

    def __init__(self, tokenizer: "Tokenizer", pad: int, max_length: int, device: str) -> None:
        self.tokenizer = tokenizer.from_str(tokenizer.to_str())
        self.tokenizer.enable_truncation(max_length)
        self.tokenizer.enable_padding(pad_id=pad)
        self.pad, self.device = pad, device

    def __call__(self, texts: list[str]) -> tuple[Tensor, Tensor]:
        ids = torch.from_numpy(np.array([one.ids for one in self.tokenizer.encode_batch_fast(texts)], dtype=np.int64))
        ids = ids.to(self.device)
        return ids, (ids != self.pad).long()


def _net(net: Net, materials: Materials) -> Competitor:
    """A network of the zoo."""
    read = materials.reader(net.tokenizer, materials.device)
    classes, model = materials.train.classes, materials.network(net)
    logits = in_parts(model, net.parts)
    labels, cost = _then(read, logits, classes), _cost_of(model)
    about = {
        "model": net.model, "options": net.options, "tokenizer": net.tokenizer, "threads": materials.threads,
        "parts": net.parts,
    }  # fmt: skip
    if net.parts > 1:
        return Competitor(None, None, labels, net.tokenizer, cost, about)
    return Competitor(read, logits, labels, net.tokenizer, cost, about)


def in_parts(model: Callable[[Tensor, Tensor], Tensor], parts: int) -> Callable[[tuple[Tensor, Tensor]], Tensor]:
    """``model`` on (ids, mask), int64 [B, T], in ``parts`` of alike lengths, each padded to its own longest."""

    def logits(inputs: tuple[Tensor, Tensor]) -> Tensor:
        if parts == 1:
            return model(*inputs)
        ids, mask = inputs
        lengths = mask.sum(1)
        order = lengths.argsort()
        found = [model(*(one[rows, : lengths[rows].max()] for one in (ids, mask))) for rows in order.chunk(parts)]
        return torch.cat(found)[order.argsort()]

    return logits


def _then(read: Callable[[list[str]], Any], logits: Callable[[Any], Tensor], classes: list[str]) -> Any:
    """From texts to the names of their classes."""

    def labels(texts: list[str]) -> list[str]:
        return [classes[number] for number in logits(read(texts)).argmax(1).tolist()]

    return labels


def _cost_of(model: nn.Module) -> Cost:
    """Of a module: its file holds parameters and buffers, as safetensors does."""
    stored = float(sum(value.nbytes for value in (*model.parameters(), *model.buffers())))
    return Cost(float(sum(parameter.numel() for parameter in model.parameters())), stored, stored)


def _student(name: str, threads: int, materials: Materials) -> Competitor:
    """The n-gram student: our runtime, or on a GPU and in two variants torch's operators on the same table."""
    if materials.device != "cpu" and threads != materials.threads:
        raise Unavailable("cores do not matter on a GPU")
    if name in ("dan-torch", "dan-padded") or materials.device != "cpu":
        return _module(name, materials)
    student = materials.student(PRECISIONS[name], threads)
    rows, dim = materials.vocabulary.size, materials.config.dim

    def logits(bags: Bags) -> np.ndarray:
        return student.head(bags.ids, bags.offsets)

    about = {
        "precision": PRECISIONS[name], "rows": rows, "dim": dim, "threads": threads,
        "table": "mapped file", "hidden_layer": "folded into the table" if student.meta.folded else "computed",
    }  # fmt: skip
    params = float(sum(parameter.numel() for parameter in materials.dan.parameters()))
    size = float(sum(file.stat().st_size for file in student.folder.iterdir()))
    cost = Cost(params, size, size, float(student.table.nbytes), rows)
    read = partial(student.features.transform, threads=threads)
    return Competitor(read, logits, student.predict, f"ngrams-{threads}", cost, about)


def _module(name: str, materials: Materials) -> Competitor:
    """The student as a torch module on the device, or with the released code's padded look-up."""
    if materials.device != "cpu" and name == "dan-torch":
        raise Unavailable("on a GPU 'dan' is the torch module itself")
    if materials.device != "cpu" and name == "dan-int8":
        raise Unavailable("it runs on CPUs only")
    vocabulary, device, threads = materials.vocabulary, materials.device, materials.threads
    model = materials.dan.to(device)
    if name == "dan-bf16":
        model = copy.deepcopy(model).to(torch.bfloat16)
    classes, read = materials.train.classes, partial(vocabulary.transform, threads=threads)
    about = {"rows": vocabulary.size, "dim": materials.config.dim, "threads": threads, "table": "in memory"}

    def ragged(texts: list[str]) -> RaggedIds:
        bags = read(texts)
        return RaggedIds(torch.from_numpy(bags.ids.astype(np.int64)), torch.from_numpy(bags.offsets)).to(device)

    def padded(texts: list[str]) -> tuple[Tensor, Tensor]:
        bags = read(texts)
        tokens = Tokens(bags.ids, bags.offsets, pad_id=vocabulary.size - 1)
        ids, mask = tokens.pad(np.arange(len(tokens)), LONGEST_BAG)
        return ids.to(device), mask.sum(1).to(device)

    if name == "dan-padded":
        look_up = partial(padded_logits, model)
        return Competitor(padded, look_up, _then(padded, look_up, classes), name, _cost_of(model), about)

    def logits_of(bags: RaggedIds) -> Tensor:
        return model(bags.ids, bags.offsets)

    cost = _cost_of(model)
    if device == "cpu":
        cost = cost._replace(table_bytes=float(model.table.weight.nbytes), table_rows=vocabulary.size)
    return Competitor(ragged, logits_of, _then(ragged, logits_of, classes), "ngrams-torch", cost, about)


def padded_logits(model: Dan, inputs: tuple[Tensor, Tensor]) -> Tensor:
    """Logits [B, C] as the released code gets them: rows of padded ids [B, L] as one tensor [B, L, dim], its sum over
    L divided by the lengths [B]. Padding is a row of zeros.
    """
    ids, lengths = inputs
    state = F.embedding(ids, model.table.weight).sum(1) / lengths.clamp(min=1).unsqueeze(1)
    for layer in model.layers:
        state = F.relu(layer(state))
    return model.head(state)


def _peer(name: str, threads: int, materials: Materials) -> Competitor:
    """A classifier or tokeniser that others would use. Raises Unavailable where its package or MiniLM is missing."""
    package = missing_package(name)
    if package is not None:
        raise Unavailable(f"the package {package} is not installed")
    if name == "minilm-onnx-int8":
        return _onnx(threads, materials)
    classes = materials.train.classes
    about = {"processes": threads}
    if name == "sklearn":
        path = materials.folder / "vocabulary"
        if not path.exists():
            materials.vocabulary.save(path)
        count = materials.share(partial(counter, path), threads)
        return Competitor(lambda texts: vstack(count(texts)), None, None, f"sklearn-{threads}", Cost(), about)
    if name == "model2vec":
        materials.check_minilm("model.safetensors")
    texts, labels = materials.sample
    predict = materials.share(partial(predictor, name, texts, labels, len(classes), materials.seed), threads)

    def labelled(batch: list[str]) -> list[str]:
        return [classes[number] for part in predict(batch) for number in part.tolist()]

    return Competitor(None, None, labelled, name, Cost(), {**about, "fitted_on": len(texts)})


def _onnx(threads: int, materials: Materials) -> Competitor:
    read, classes = materials.reader("wordpiece", "cpu"), materials.train.classes
    model = OnnxMiniLM(len(classes), materials.folder, threads)
    stored = float(model.path.stat().st_size)
    logits = in_parts(lambda ids, mask: torch.from_numpy(model(ids.numpy(), mask.numpy())), PARTS)
    about = {
        "model": "minilm-l6", "tokenizer": "wordpiece", "precision": "int8, dynamic", "threads": threads, "parts": PARTS
    }  # fmt: skip
    return Competitor(
        read, logits, _then(read, logits, classes), "wordpiece", Cost(model.params, stored, stored), about
    )
