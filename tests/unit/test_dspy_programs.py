"""Programs, as real DSPy modules with DSPy's deterministic language model."""

from __future__ import annotations

import subprocess
import sys

import fakeredis
import pytest
from celery.exceptions import SoftTimeLimitExceeded

from pooltasks import app, operation, operations
from pooltasks.app import Extension
from pooltasks.errors import (
    InvalidIdentifierError,
    InvalidInputsError,
    InvalidSignatureError,
    MissingExtraError,
    ProgramError,
    ProgramNotFoundError,
    SessionNotFoundError,
)
from pooltasks.node.worker.warmup import run_commands
from pooltasks.operations.dspy_programs import (
    BuiltProgram,
    build,
    import_dspy,
    parse_definition,
)
from pooltasks.operations.program_cache import process_cache
from pooltasks.pool_settings import PoolSettings
from pooltasks.settings import Settings
from workers import programs

dspy = pytest.importorskip("dspy", reason="the extra 'dspy' is not installed")

QUESTION = {
    "inputs": [{"name": "question", "type": "string"}],
    "outputs": [{"name": "answer", "type": "string"}],
}


@operation(name="test_dspy_programs.population")
def population(city: str, *, in_millions: bool = False) -> float:
    """Return how many people live in a city."""
    if city != "Bern":
        message = f"unknown city {city}"
        raise ValueError(message)
    return 0.134 if in_millions else 134_000


@operation(name="test_dspy_programs.typeless", bind=True)
def unreadable(self, city: Unknown):  # noqa: F821  what it tests
    """Have an argument of a type that nobody knows."""


@pytest.fixture(autouse=True)
def client(monkeypatch):
    """Make this process look like a worker of the pool ``programs``, on fakeredis."""
    settings = Settings(pools={"programs": PoolSettings()})
    with fakeredis.FakeRedis() as client:
        monkeypatch.setattr(app, "_extension", Extension(settings, "programs", client))
        yield client
    process_cache().discard_session("anonymous")
    process_cache().discard_session("s")


@pytest.fixture
def model():
    """Return a function that sets the language model's answers."""
    contexts = []

    def answer(*answers):
        context = dspy.context(lm=dspy.utils.DummyLM(list(answers)))
        context.__enter__()
        contexts.append(context)

    yield answer
    for context in reversed(contexts):
        context.__exit__(None, None, None)


def create(program_id="p", signature=None, **options):
    return operations.create_program.run(program_id, signature or QUESTION, **options)


def execute(program_id="p", inputs=None, **options):
    inputs = {"question": "why?"} if inputs is None else inputs
    return operations.execute_program.run(program_id, inputs, **options)


def test_a_program_is_created_and_executed(model):
    assert create() == {
        "program_id": "p",
        "status": "created",
        "version": 1,
        "signature": QUESTION,
        "program_type": "predict",
    }
    model({"answer": "because"})
    result = execute()
    assert result["outputs"] == {"answer": "because"}
    assert (result["program_id"], result["version"]) == ("p", 1)
    assert result["execution_time"] > 0


def test_outputs_have_the_types_of_the_signature(model):
    create(
        signature={
            "inputs": [{"name": "text", "type": "text"}, {"name": "limit", "type": "integer"}],
            "outputs": [
                {"name": "count", "type": "integer"},
                {"name": "share", "type": "number"},
                {"name": "found", "type": "boolean"},
                {"name": "words", "type": "list[string]"},
                {"name": "detail", "type": "object"},
            ],
        }
    )
    model({"count": 3, "share": 0.5, "found": True, "words": ["a", "b"], "detail": {"x": 1}})
    assert execute(inputs={"text": "a b", "limit": 3})["outputs"] == {
        "count": 3,
        "share": 0.5,
        "found": True,
        "words": ["a", "b"],
        "detail": {"x": 1},
    }


def test_a_chain_of_thought_reasons_first(model):
    signature = {
        "inputs": QUESTION["inputs"],
        "outputs": [{"name": "reasoning", "type": "string"}, *QUESTION["outputs"]],
    }
    create("plain", program_type="chain_of_thought")
    create("open", signature, program_type="chain_of_thought")
    model(*[{"reasoning": "it is so", "answer": "because"}] * 2)
    assert execute("plain")["outputs"] == {"answer": "because"}
    assert execute("open")["outputs"] == {"reasoning": "it is so", "answer": "because"}


def test_a_react_program_calls_operations_in_this_process(model):
    create(program_type="react", tools=["test_dspy_programs.population"])
    model(
        {
            "next_thought": "look it up",
            "next_tool_name": "test_dspy_programs.population",
            "next_tool_args": '{"city": "Bern"}',
        },
        {"next_thought": "done", "next_tool_name": "finish", "next_tool_args": "{}"},
        {"reasoning": "134000", "answer": "134000 people"},
    )
    module = build(
        parse_definition(QUESTION, "react", tools=["test_dspy_programs.population"]), app
    ).module
    prediction = module(question="How many?")
    assert prediction.trajectory["observation_0"] == 134_000
    model(
        {"next_thought": "done", "next_tool_name": "finish", "next_tool_args": "{}"},
        {"reasoning": "-", "answer": "many"},
    )
    assert execute()["outputs"] == {"answer": "many"}


def test_instructions_and_descriptions_reach_the_language_model():
    signature = {
        "inputs": [{"name": "question", "type": "string", "description": "from a child"}],
        "outputs": QUESTION["outputs"],
    }
    program = build(parse_definition(signature, instructions="Be kind."), app)
    assert program.module.signature.instructions == "Be kind."
    field = program.module.signature.input_fields["question"]
    assert field.json_schema_extra["desc"] == "from a child"


def test_a_saved_state_is_loaded():
    example = dspy.Example(question="why?", answer="because").with_inputs("question")
    tuned = dspy.ChainOfThought("question -> answer")
    tuned.predict.demos = [example]
    definition = parse_definition(QUESTION, "chain_of_thought", state=tuned.dump_state())
    (demo,) = build(definition, app).module.predict.demos
    assert demo["answer"] == "because"


def test_a_state_of_something_else_is_refused():
    with pytest.raises(ProgramError, match="not that of this program"):
        create(program_type="chain_of_thought", state={"other": {}})


def test_a_replaced_program_is_executed_anew_also_from_the_cache(model):
    create()
    model({"answer": "old"})
    execute()
    other = {"inputs": QUESTION["inputs"], "outputs": [{"name": "verdict", "type": "string"}]}
    assert create(signature=other)["status"] == "replaced"
    model({"verdict": "new"})
    result = execute()
    assert result["outputs"] == {"verdict": "new"}
    assert result["version"] == 2


def test_another_workers_newer_definition_is_noticed(model):
    create(session_id="s")
    kept = process_cache()
    other = {"inputs": QUESTION["inputs"], "outputs": [{"name": "verdict", "type": "string"}]}
    process_cache.cache_clear()  # from here on another worker
    operations.delete_program.run("p", session_id="s")
    create(signature=other, session_id="s")
    process_cache.cache_clear()
    process_cache().get("s", "p", "revision of the first", lambda: kept)
    model({"verdict": "new"})
    assert execute(session_id="s")["outputs"] == {"verdict": "new"}


def test_a_worker_builds_a_program_once(model, monkeypatch):
    create()
    built = []
    monkeypatch.setattr("pooltasks.operations.programs.build", built.append)
    model({"answer": "1"}, {"answer": "2"})
    assert [execute()["outputs"]["answer"] for _ in range(2)] == ["1", "2"]
    assert built == []


def test_a_program_belongs_to_its_session(model):
    create(session_id="s")
    with pytest.raises(ProgramNotFoundError, match="'anonymous' has no program 'p'"):
        execute()
    model({"answer": "because"})
    assert execute(session_id="s")["outputs"] == {"answer": "because"}
    with pytest.raises(SessionNotFoundError, match="'t'"):
        execute(session_id="t")


def test_info_counts_executions_and_failures(model):
    create(program_type="chain_of_thought", instructions="Be kind.")
    before = operations.get_program_info.run("p")
    assert (before["executions"], before["average_seconds"]) == (0, None)
    model({"reasoning": "-", "answer": "because"})
    execute()
    with pytest.raises(ProgramError):
        execute()  # the model has no second answer
    info = operations.get_program_info.run("p")
    assert (info["executions"], info["failures"]) == (2, 1)
    assert info["average_seconds"] > 0
    assert info["last_executed_at"] >= info["created_at"]
    assert info["signature"] == QUESTION
    assert (info["program_type"], info["version"]) == ("chain_of_thought", 1)
    assert (info["instructions"], info["tools"]) == ("Be kind.", [])


def test_programs_are_listed():
    assert operations.list_programs.run() == []
    create("b")
    create("a", program_type="chain_of_thought")
    listed = operations.list_programs.run()
    assert [(it["program_id"], it["program_type"]) for it in listed] == [
        ("b", "predict"),
        ("a", "chain_of_thought"),
    ]


def test_a_deleted_program_is_gone():
    create()
    assert operations.delete_program.run("p") == {"program_id": "p", "status": "deleted"}
    for use in (execute, operations.delete_program.run, operations.get_program_info.run):
        with pytest.raises(ProgramNotFoundError):
            use("p")


def test_wrong_inputs_are_one_error_and_no_execution(model):
    create()
    model({"answer": "never asked"})
    with pytest.raises(InvalidInputsError, match=r"question is missing; 'q' is not an input"):
        execute(inputs={"q": "why?"})
    assert operations.get_program_info.run("p")["executions"] == 0


def test_without_a_language_model_the_error_says_what_to_do():
    create()
    with pytest.raises(ProgramError, match=r"No language model .*warm-up"):
        execute()


def test_an_answer_that_does_not_fit_is_a_program_error(model):
    create(
        signature={
            "inputs": QUESTION["inputs"],
            "outputs": [{"name": "count", "type": "integer"}],
        }
    )
    model(*[{"count": "many"}] * 4)
    with pytest.raises(ProgramError, match="The program failed"):
        execute()


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"signature": {"inputs": []}}, InvalidSignatureError, "has no outputs"),
        ({"program_type": "guess"}, ProgramError, "no program type 'guess'; allowed: predict"),
        ({"program_type": ["predict"]}, ProgramError, "no program type"),
        ({"program_type": "react"}, ProgramError, "at least one tool"),
        ({"tools": ["pooltasks.operations.ping"]}, ProgramError, "Only react programs use tools"),
        ({"program_type": "react", "tools": ["no.such"]}, ProgramError, "no operation 'no.such'"),
        (
            {"program_type": "react", "tools": ["celery.group"]},
            ProgramError,
            "no operation 'celery.group'",
        ),
        (
            {"program_type": "react", "tools": ["test_dspy_programs.typeless"]},
            ProgramError,
            "cannot be a tool",
        ),
        ({"tools": "ping"}, ProgramError, "tools is malformed"),
        ({"instructions": 3}, ProgramError, "instructions is of type int"),
        ({"state": []}, ProgramError, "state is of type list"),
        ({"program_id": ""}, InvalidIdentifierError, "program id is empty"),
        ({"session_id": ""}, InvalidIdentifierError, "session id is empty"),
    ],
)
def test_what_is_wrong_with_a_program_shows_at_its_creation(client, options, error, message):
    with pytest.raises(error, match=message):
        create(**options)
    assert client.keys() == []


@pytest.mark.parametrize("name", ["signature", "config", "lm", "fields", "copy", "max_iters"])
def test_a_name_that_dspy_uses_is_refused(name):
    signature = {
        "inputs": [{"name": name, "type": "string"}],
        "outputs": QUESTION["outputs"],
    }
    with pytest.raises(InvalidSignatureError, match=rf"inputs\[0\] has the name '{name}', which"):
        create(signature=signature)


def test_the_operations_own_timeout_is_not_taken_for_a_failure_of_the_program():
    class Slow:
        def predictors(self):
            return []

        def __call__(self, **_):
            raise SoftTimeLimitExceeded

    with pytest.raises(SoftTimeLimitExceeded):
        BuiltProgram(parse_definition(QUESTION), Slow()).run({"question": "why?"})


def test_a_broken_installation_of_dspy_is_not_taken_for_a_missing_one(monkeypatch):
    def broken(*_):
        message = "No module named 'litellm'"
        raise ModuleNotFoundError(message, name="litellm")

    monkeypatch.delitem(sys.modules, "dspy")
    monkeypatch.setattr("builtins.__import__", broken)
    with pytest.raises(ModuleNotFoundError, match="litellm"):
        import_dspy()


def test_without_the_extra_there_is_one_clear_error(monkeypatch):
    monkeypatch.setitem(sys.modules, "dspy", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'pooltasks\[dspy\]'"):
        create()


@pytest.fixture
def unconfigured():
    """Undo what a test configures for the whole process."""
    names = ("lm", "trace", "disable_history")
    before = {name: dspy.settings[name] for name in names}
    yield
    dspy.configure(**before)


@pytest.mark.usefixtures("unconfigured")
def test_the_reference_deployment_works_offline():
    assert programs.configure_lm.run() == {"model": "dummy", "temperature": 0.0}
    for question in ("why?", "why not?"):
        answer = programs.answer.run(question)
        assert answer == {"answer": programs.DUMMY_ANSWER, "reasoning": programs.DUMMY_ANSWER}


@pytest.mark.usefixtures("unconfigured")
def test_the_reference_deployment_configures_a_real_model():
    assert programs.configure_lm.run("openai/gpt-4o-mini", temperature=0.5) == {
        "model": "openai/gpt-4o-mini",
        "temperature": 0.5,
    }
    assert dspy.settings.lm.model == "openai/gpt-4o-mini"
    assert dspy.settings.lm.kwargs["temperature"] == 0.5


@pytest.mark.usefixtures("unconfigured")
def test_a_worker_keeps_no_history_of_its_calls():
    programs.configure_lm.run()
    create()
    execute()
    programs.answer.run("why?")
    assert dspy.settings.lm.history == []


def test_the_named_warm_up_gets_a_worker_ready_without_asking_a_model():
    commands = PoolSettings(warmup="dspy:openai/some-model").warmup.commands
    report = run_commands(app, [one.model_copy(update={"timeout": None}) for one in commands])
    assert report.failure is None
    assert [one.operation.rpartition(".")[2] for one in report.commands] == [
        "import_dspy",
        "configure_lm",
        "create_program",
        "create_program",
    ]
    assert dspy.settings.lm.model == "openai/some-model"
    assert dspy.settings.disable_history
    built = operations.list_programs.run(session_id="warm-up")
    assert [its["program_type"] for its in built] == ["predict", "chain_of_thought"]
    process_cache().discard_session("warm-up")


def test_only_a_warm_up_may_choose_the_model_of_a_worker():
    configure = app.tasks["pooltasks.operations.configure_lm"]
    configure.push_request(called_directly=False)
    try:
        with pytest.raises(ProgramError, match="only a warm-up may"):
            configure.run("openai/another")
    finally:
        configure.pop_request()


def test_importing_the_operations_does_not_import_dspy():
    code = "import sys, pooltasks.operations, workers.programs; sys.exit('dspy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
