"""One backend of all threads of a worker that runs several operations at once."""

from __future__ import annotations

import threading

import pytest

from pooltasks.broker.results import share


def _of_threads(app, number=3):
    backends = []
    for _ in range(number):
        thread = threading.Thread(target=lambda: backends.append(app.backend))
        thread.start()
        thread.join()
    return backends


@pytest.mark.parametrize("is_made_before", [False, True])
def test_threads_share_our_backend_once_that_is_said(make_app, is_made_before):
    app = make_app()
    before = app.backend if is_made_before else None
    assert len(set(map(id, _of_threads(app)))) == 3
    share(app)
    backends = [app.backend, *_of_threads(app)]
    assert len(set(map(id, backends))) == 1
    assert before in (None, app.backend)


def test_another_backend_stays_one_of_each_thread(make_app):
    app = make_app()
    app.conf.result_backend = "rpc://"
    share(app)
    assert len(set(map(id, _of_threads(app)))) == 3
