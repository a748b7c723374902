"""Projects of four kinds, each with a real server, a plain worker and a node."""

from __future__ import annotations

import pytest
import redis
from postgres import running_postgres
from project import Project, files_of, wait_until

pytestmark = pytest.mark.long

POOLS = """
[pools.code]
imports = ["shop.work"]
pool_size = 1
"""

SHOP = """
import os
from celery import Celery
import pooltasks

app = Celery("shop", broker=os.environ["SHOP_REDIS"], backend=os.environ["SHOP_REDIS"],
             include=["shop.tasks"])
pooltasks.install(app)
"""

TASKS = """
import os
from celery import shared_task

@shared_task
def plain():
    return os.getppid()
"""

WORK = """
import os
from celery import shared_task
from pooltasks import operation

@operation(pool="code")
def work(number):
    return os.getppid(), number

@shared_task(name="create_task")
def create_task():
    return os.getppid()
"""

PLAIN = {
    "config/pools.toml": POOLS,
    "shop/__init__.py": SHOP,
    "shop/tasks.py": TASKS,
    "shop/work.py": WORK,
}


def test_a_plain_project(tmp_path, valkey_url):
    with Project(tmp_path, PLAIN, SHOP_REDIS=valkey_url, CELERY_APP="shop") as project:
        project.worker("plain", "-c", "1")
        plain = project.log("plain")
        assert "celery           exchange=celery" in plain
        assert "pool." not in plain
        # What lies in a pool's queue stays there until there is a node.
        sent = project.python(
            "import shop.work as w\n"
            "for n in range(20): print(w.work.delay(n).id)\n"
            "print(w.create_task.delay().id)"
        )
        assert len(sent) == 21
        project.worker("node", "-Q", "pool.code")
        answers = project.python(f"""
import threading, shop, shop.work as w, shop.tasks as t
ids = {sent!r}
print(t.plain.delay().get(timeout=30))
for id in ids[:-1]:
    print(*shop.app.AsyncResult(id).get(timeout=30))
print(shop.app.AsyncResult(ids[-1]).get(timeout=30))
def endpoint():
    import pooltasks
    print(*w.work.delay(77).get(timeout=30))
    print(*pooltasks.Pool("code").execute(w.work, [78]))
    print(pooltasks.Pool("code").execute(w.create_task))
thread = threading.Thread(target=endpoint)
thread.start()
thread.join()
""")
        plain_worker, node = answers[0], answers[1].split()[0]
        assert plain_worker != node
        assert answers[1:21] == [f"{node} {number}" for number in range(20)]
        assert answers[21:] == [node, f"{node} 77", f"{node} 78", node]
        assert "shop.work.work" not in project.log("plain").partition("ready.")[2]


def test_beat_in_a_plain_worker_calls_the_optimizer_too(tmp_path, valkey_url):
    theirs = 'app.conf.beat_schedule = {"own": {"task": "shop.tasks.plain", "schedule": 1.0}}'
    files = {**PLAIN, "shop/__init__.py": f"{SHOP}\n{theirs}\n"}
    with Project(tmp_path, files, SHOP_REDIS=valkey_url, CELERY_APP="shop") as project:
        project.worker("plain", "-c", "1", "-B")
        wait_until(lambda: "shop.tasks.plain" in project.log("plain"), "their own entry runs")
        with redis.Redis.from_url(valkey_url) as client:
            wait_until(lambda: client.llen("pool.control"), "a tick waits for the control node")


def test_in_another_working_directory_the_missing_file_is_named(tmp_path, valkey_url):
    """As under WSGI and systemd, which start programs where no file of pools lies."""
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    with Project(tmp_path / "project", PLAIN, SHOP_REDIS=valkey_url) as project:
        project.folder, folder = elsewhere, project.folder
        program = (
            "import shop.work; shop.work.work.delay(1); print(shop.app.pooltasks.settings.pools)"
        )
        done = project.run("-c", program)
        assert done.returncode == 0, done.stderr
        (warning,) = done.stderr.splitlines()
        assert f"there is no {elsewhere / 'config' / 'pools.toml'}" in warning
        assert "POOLTASKS_CONFIG names no other file" in warning
        assert done.stdout == "{}\n"
        project.environment["POOLTASKS_CONFIG"] = str(folder / "config" / "pools.toml")
        done = project.run("-c", program)
        assert done.stderr == ""
        assert "code" in done.stdout


def test_a_command_says_which_application_it_asks(tmp_path, valkey_url):
    with Project(tmp_path, PLAIN, SHOP_REDIS=valkey_url) as project:
        project.environment["POOLTASKS_REDIS_URL"] = "redis://127.0.0.1:1/0"
        bare = project.run("-m", "pooltasks", "status")
        assert bare.returncode == 1
        (error,) = bare.stderr.splitlines()
        assert "The server redis://127.0.0.1:1/0 of the application 'pooltasks' does not" in error
        assert error.endswith("See POOLTASKS_REDIS_URL, or name your application with -A.")
        del project.environment["POOLTASKS_REDIS_URL"]
        named = project.run("-m", "pooltasks", "-A", "shop", "status")
        assert f"Application 'shop', server {valkey_url}" in named.stderr
        assert "code" in named.stdout
        assert named.stderr.endswith(
            "No node answers. Start one: celery -A shop worker -Q pool.code\n"
        )


DJANGO = files_of("django")


DJANGO_ON_POSTGRES = {
    **DJANGO,
    "shop/settings.py": DJANGO["shop/settings.py"]
    + """
INSTALLED_APPS += ["django_celery_results", "django_celery_beat"]
DATABASES = {"default": {"ENGINE": "django.db.backends.postgresql", "NAME": "postgres",
                         "USER": "shop", "HOST": os.environ["SHOP_DATABASE"]}}
CELERY_RESULT_BACKEND = "django-db"
CELERY_BEAT_SCHEDULER = "django_celery_beat.schedulers:DatabaseScheduler"
""",
}

SHELL = """
import time

from django.db import connection, transaction
from django_celery_results.models import TaskResult
from shop.operations import place, revenue
from shop.models import Order

ids = []
with transaction.atomic():
    for number in (5, 7):
        Order.objects.create(total=number)
    revenue.delay_on_commit()
    transaction.on_commit(lambda: ids.append(revenue.delay().id))
    assert not ids
print(revenue.AsyncResult(ids[0]).get(timeout=30), place.delay(1).get(timeout=30))
print(TaskResult.objects.filter(status="SUCCESS").count())
end = time.monotonic() + 10
with connection.cursor() as cursor:
    # Each operation closes its connection, as each task of Celery does.
    open_ones = None
    while open_ones != 1 and time.monotonic() < end:
        cursor.execute("select count(*) from pg_stat_activity where datname = 'postgres'")
        open_ones = cursor.fetchone()[0]
    print(open_ones)
"""


def test_a_django_project(tmp_path, valkey_url):
    """With PostgreSQL, and the results and the schedule of its extensions in it."""
    pytest.importorskip("django_celery_results")
    pytest.importorskip("django_celery_beat")
    with (
        running_postgres() as database,
        Project(
            tmp_path,
            DJANGO_ON_POSTGRES,
            SHOP_REDIS=valkey_url,
            SHOP_DATABASE=database,
            CELERY_APP="shop",
        ) as project,
    ):
        project.start("migration", "manage", "migrate", "--run-syncdb")
        checked = project.run("-m", "celery", "pool", "check")
        assert checked.returncode == 0, checked.stdout + checked.stderr
        assert "pool.orders: its operations can be imported" in checked.stdout
        wait_until(lambda: project.has_ended("migration"), "the tables are there")
        project.worker("node", "-Q", "pool.orders")
        shown = project.run("manage.py", "shell", "-c", SHELL)
        assert shown.stdout.splitlines()[-3:] == ["12 3", "3", "1"], shown.stdout + shown.stderr
        project.start("beat", "celery", "beat")
        with redis.Redis.from_url(valkey_url) as client:
            wait_until(lambda: client.llen("pool.control"), "a tick waits for the control node")


def test_what_hinders_a_django_project_is_named(tmp_path, valkey_url):
    pytest.importorskip("django")
    files = {**DJANGO, "shop/models.py": DJANGO["shop/models.py"] + "\nraise ValueError('typo')\n"}
    with Project(tmp_path, files, SHOP_REDIS=valkey_url, CELERY_APP="shop") as project:
        project.start("node", "celery", "worker", "-Q", "pool.orders")
        wait_until(lambda: project.has_ended("node"), "the node ends")
        log = project.log("node")
        assert "the application 'shop' does not start: ValueError: typo" in log
        assert f"models.py, line {files['shop/models.py'].count(chr(10))}" in log
        assert "Traceback" not in log


def test_a_fastapi_project(tmp_path, valkey_url):
    pytest.importorskip("fastapi")
    files = files_of("fastapi")
    with Project(tmp_path, files, SHOP_REDIS=valkey_url, CELERY_APP="shop") as project:
        project.worker("node", "-Q", "pool.orders")
        lines = project.python(
            "from fastapi.testclient import TestClient\n"
            "from web import web\n"
            "with TestClient(web) as client:\n"
            "    print(client.get('/def/3').json(), client.get('/async/4').json())"
        )
        assert lines == ["4 5"]


FLASK = {
    "config/pools.toml": POOLS,
    "shop/__init__.py": """
import os
from celery import Celery, Task
from flask import Flask
import pooltasks

def celery_init_app(app: Flask) -> Celery:
    class FlaskTask(Task):
        def __call__(self, *args: object, **kwargs: object) -> object:
            with app.app_context():
                return self.run(*args, **kwargs)

    celery_app = Celery(app.name, task_cls=FlaskTask)
    celery_app.config_from_object(app.config["CELERY"])
    celery_app.set_default()
    app.extensions["celery"] = celery_app
    return pooltasks.install(celery_app)

def create_app():
    app = Flask(__name__)
    url = os.environ["SHOP_REDIS"]
    app.config.from_mapping(
        CURRENCY="EUR", CELERY={"broker_url": url, "result_backend": url, "include": ["shop.work"]}
    )
    celery_init_app(app)
    from shop import work

    @app.get("/price/<int:number>")
    def price(number):
        return work.price.delay(number).get(timeout=30)

    @app.get("/plain/<int:number>")
    def plain(number):
        return work.plain.delay(number).get(timeout=30)

    return app
""",
    "shop/work.py": """
from celery import shared_task
from flask import current_app
from pooltasks import operation

@operation(pool="code")
def price(number):
    return f"{number} {current_app.config['CURRENCY']}"

@shared_task
def plain(number):
    return f"plain {number} {current_app.config['CURRENCY']}"
""",
    "make_celery.py": """
from shop import create_app

celery_app = create_app().extensions["celery"]
""",
}


def test_a_flask_project(tmp_path, valkey_url):
    pytest.importorskip("flask")
    with Project(tmp_path, FLASK, SHOP_REDIS=valkey_url, CELERY_APP="make_celery") as project:
        # As Celery's command finds it: the only application in the module.
        project.worker("node", "-Q", "pool.code")
        lines = project.python(
            "import threading\n"
            "from shop import create_app\n"
            "app = create_app()\n"
            "def ask():\n"  # in a thread, as Flask's server does
            "    client = app.test_client()\n"
            "    print(client.get('/price/3').text, client.get('/plain/4').text)\n"
            "thread = threading.Thread(target=ask)\n"
            "thread.start(); thread.join()"
        )
        assert lines == ["3 EUR plain 4 EUR"]


PYTEST = {
    **PLAIN,
    "test_shop.py": """
import pytest
import shop
from shop.work import work

@pytest.fixture(scope="session")
def pooltasks_app():
    return shop.app

def test_inline(pooltasks_inline):
    assert work.delay(1).get()[1] == 1

def test_recorded(pooltasks_recorded):
    work.delay(2)
    pooltasks_recorded.assert_submitted(work, number=2)

def test_pools(pooltasks_pools):
    import os
    parent, number = work.delay(3).get(timeout=30)
    assert number == 3
    assert parent not in (os.getpid(), os.getppid())
""",
}


def test_the_fixtures_of_pytest(tmp_path):
    # A server that nothing answers: only that of the fixture is asked.
    with Project(tmp_path, PYTEST, SHOP_REDIS="redis://127.0.0.1:1/0") as project:
        plugin = ["-p", "pooltasks.testing.plugin", "-p", "no:cacheprovider", "-p", "no:pooltasks"]
        done = project.run("-m", "pytest", "-q", *plugin, "test_shop.py")
        assert done.returncode == 0, done.stdout + done.stderr
        assert "3 passed" in done.stdout
