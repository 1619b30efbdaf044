"""The questions: files of two real packages, what is asked about them, and the fact that answers it."""

from __future__ import annotations

from dataclasses import dataclass

from tests.answers.facts import Fact, base_of, default_of, defined_in, raised_in, says, value_of
from tests.answers.sources import FLASK, REQUESTS, Wheel


@dataclass(frozen=True)
class Question:
    text: str
    fact: Fact


@dataclass(frozen=True)
class Workspace:
    """Files that are loaded together (2k to 6k tokens), and questions about them."""

    name: str
    wheel: Wheel
    files: tuple[str, ...]
    questions: tuple[Question, ...]


SESSIONS = Workspace(
    "sessions",
    FLASK,
    ("flask/sessions.py", "flask/logging.py", "flask/signals.py"),
    (
        Question(
            "What is the value of salt in SecureCookieSessionInterface?",
            value_of("flask/sessions.py", "SecureCookieSessionInterface.salt"),
        ),
        Question(
            "What key derivation does SecureCookieSessionInterface use?",
            value_of("flask/sessions.py", "SecureCookieSessionInterface.key_derivation"),
        ),
        Question(
            "Which exception is raised when a NullSession is modified?",
            raised_in("flask/sessions.py", "NullSession._fail"),
        ),
        Question(
            "Which exception does SessionInterface.open_session raise?",
            raised_in("flask/sessions.py", "SessionInterface.open_session"),
        ),
        Question("What is the base class of NullSession?", base_of("flask/sessions.py", "NullSession")),
        Question(
            "What is the default value of SessionInterface.pickle_based?",
            value_of("flask/sessions.py", "SessionInterface.pickle_based"),
        ),
        Question("Which file defines the function create_logger?", defined_in("create_logger")),
        Question("Which file defines the signal message_flashed?", defined_in("message_flashed")),
    ),
)

CONFIG = Workspace(
    "config",
    FLASK,
    ("flask/config.py", "flask/globals.py", "flask/json/provider.py"),
    (
        Question(
            "What is the default value of the parameter prefix of Config.from_prefixed_env?",
            default_of("flask/config.py", "Config.from_prefixed_env", "prefix"),
        ),
        Question(
            "What is the default value of the parameter loads of Config.from_prefixed_env?",
            default_of("flask/config.py", "Config.from_prefixed_env", "loads"),
        ),
        Question(
            "Which exception does Config.from_envvar raise if the variable is not set?",
            raised_in("flask/config.py", "Config.from_envvar"),
        ),
        Question(
            "What is the default value of the parameter text of Config.from_file?",
            default_of("flask/config.py", "Config.from_file", "text"),
        ),
        Question("What is the base class of Config?", base_of("flask/config.py", "Config")),
        Question("Which file defines current_app?", defined_in("current_app")),
        Question(
            "What is the value of mimetype in DefaultJSONProvider?",
            value_of("flask/json/provider.py", "DefaultJSONProvider.mimetype"),
        ),
        Question("Which file defines the class DefaultJSONProvider?", defined_in("DefaultJSONProvider")),
    ),
)

AUTH = Workspace(
    "auth",
    REQUESTS,
    ("requests/auth.py", "requests/hooks.py", "requests/__version__.py"),
    (
        Question(
            "What is the value of CONTENT_TYPE_MULTI_PART?",
            value_of("requests/auth.py", "CONTENT_TYPE_MULTI_PART"),
        ),
        Question("Which exception does AuthBase.__call__ raise?", raised_in("requests/auth.py", "AuthBase.__call__")),
        Question("What is the base class of HTTPProxyAuth?", base_of("requests/auth.py", "HTTPProxyAuth")),
        Question(
            "Which header does HTTPProxyAuth set?",
            says("requests/auth.py", "HTTPProxyAuth.__call__", "Proxy-Authorization"),
        ),
        Question("Which file defines the function dispatch_hook?", defined_in("dispatch_hook")),
        Question("Which hook is listed in HOOKS?", value_of("requests/hooks.py", "HOOKS")),
        Question("Which version of Requests is this?", value_of("requests/__version__.py", "__version__")),
        Question("Under which license is Requests?", value_of("requests/__version__.py", "__license__")),
    ),
)

VIEWS = Workspace(
    "views",
    FLASK,
    ("flask/views.py", "flask/templating.py", "flask/testing.py"),
    (
        Question(
            "What is the default value of View.init_every_request?",
            value_of("flask/views.py", "View.init_every_request"),
        ),
        Question(
            "Which exception does View.dispatch_request raise?",
            raised_in("flask/views.py", "View.dispatch_request"),
        ),
        Question(
            "What is the base class of DispatchingJinjaLoader?",
            base_of("flask/templating.py", "DispatchingJinjaLoader"),
        ),
        Question("Which file defines the function render_template_string?", defined_in("render_template_string")),
        Question(
            "What is the default value of the parameter follow_redirects of FlaskClient.open?",
            default_of("flask/testing.py", "FlaskClient.open", "follow_redirects"),
        ),
        Question(
            "What is the REMOTE_ADDR that FlaskClient sets?",
            says("flask/testing.py", "FlaskClient.__init__", "127.0.0.1"),
        ),
        Question(
            "Which exception does FlaskClient raise when client invocations are nested?",
            raised_in("flask/testing.py", "FlaskClient.__enter__"),
        ),
        Question("Which file defines the class MethodView?", defined_in("MethodView")),
    ),
)

WORKSPACES = (SESSIONS, CONFIG, AUTH, VIEWS)
