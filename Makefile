# Two commands do all the set-up: `make demo` and `make test`.
SHELL := /bin/bash
