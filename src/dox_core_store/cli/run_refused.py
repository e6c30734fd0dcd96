"""Which variables no key may be given by.

A variable that changes what a process executes, or where our own client goes, is refused: whoever
may write a key would run code wherever it is read. The list cannot be complete, since any program
may have such variables of its own; it holds those of loaders, shells, interpreters and tools that
nearly every image has. Names are compared without case, for some shells and libraries do the same.
"""

from __future__ import annotations

__all__ = ["REFUSED", "REFUSED_BEGINNINGS", "is_refused"]

_LOADER_AND_C_LIBRARY = """
    GCONV_PATH GETCONF_DIR GLIBC_TUNABLES HOSTALIASES LOCALDOMAIN LOCPATH NLSPATH PATH RES_OPTIONS
    TZDIR
"""
_SHELLS_AND_WHAT_PROGRAMS_START = """
    BASHOPTS BASH_ENV BROWSER CDPATH EDITOR ENV FPATH HOME IFS LESSCLOSE LESSOPEN MANPAGER PAGER
    PROMPT_COMMAND PS4 SUDO_ASKPASS TERMCAP VISUAL ZDOTDIR
"""
_INTERPRETERS = """
    BUNDLE_GEMFILE CATALINA_OPTS CLASSPATH COR_ENABLE_PROFILING DOTNET_ADDITIONAL_DEPS
    DOTNET_STARTUP_HOOKS ELECTRON_RUN_AS_NODE ERL_AFLAGS ERL_FLAGS ERL_LIBS ERL_ZFLAGS GEM_HOME
    GEM_PATH GRADLE_OPTS GUILE_LOAD_PATH JAVA_HOME JAVA_OPTS JAVA_TOOL_OPTIONS JDK_JAVAC_OPTIONS
    JDK_JAVA_OPTIONS JULIA_LOAD_PATH MAVEN_OPTS NODE_OPTIONS NODE_PATH NODE_REPL_EXTERNAL_MODULE
    NPM_CONFIG_GLOBALCONFIG NPM_CONFIG_NODE_OPTIONS NPM_CONFIG_PREFIX NPM_CONFIG_SCRIPT_SHELL
    NPM_CONFIG_USERCONFIG PERLLIB PHPRC PHP_INI_SCAN_DIR RUBYLIB RUBYOPT RUSTC_WRAPPER R_ENVIRON
    R_PROFILE _JAVA_OPTIONS
"""
_TOOLS_AND_LIBRARIES = """
    KRB5_CONFIG MAKEFILES MAKEFLAGS OPENSSL_CONF OPENSSL_ENGINES OPENSSL_MODULES SSH_ASKPASS
    SSH_ASKPASS_REQUIRE SSH_AUTH_SOCK SSH_SK_HELPER SSH_SK_PROVIDER
"""
_OURS_AND_THE_SERVICE_MANAGERS = """
    ADMIN_TOKEN KEY_FILES_DIR LISTEN_FDS LISTEN_PID NOTIFY_SOCKET SERVICE_KEY SERVICE_KEY_FILE
    SERVICE_TOKEN SERVICE_TOKEN_FILE
"""

REFUSED = frozenset(
    name
    for names in (
        _LOADER_AND_C_LIBRARY,
        _SHELLS_AND_WHAT_PROGRAMS_START,
        _INTERPRETERS,
        _TOOLS_AND_LIBRARIES,
        _OURS_AND_THE_SERVICE_MANAGERS,
    )
    for name in names.split()
)

REFUSED_BEGINNINGS = (
    "BASH_FUNC_",
    "CORECLR_",
    "COR_PROFILER",
    "DOXSTORE_",
    "DYLD_",
    "GIT_",
    "KEY_SERVICE_",
    "LD_",
    "LUA_",
    "PERL5",
    "PYTHON",
    "SERVICE_IDENTITY_",
    "SHELL",
    "XDG_",
)

_ALLOWED = frozenset(("GIT_PASSWORD", "GIT_TOKEN", "GIT_USERNAME"))
"""Ordinary names of secrets, which git itself does not look at."""


def is_refused(name: str) -> bool:
    """Whether no key may be given to a command by the variable ``name``."""
    upper = name.upper()
    return upper not in _ALLOWED and (upper in REFUSED or upper.startswith(REFUSED_BEGINNINGS))
