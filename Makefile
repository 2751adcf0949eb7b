.PHONY: help demo bench test test-all stress instrumentation plugins clean

help:
	@echo "make demo             show on a small Django site and one memcached what the package does"
	@echo "make test             run the linters and the tests on the default interpreter"
	@echo "make test-all         run the tests on every supported Python and Django"
	@echo "make stress           check long histories of many processes, with servers killed, for strictness"
	@echo "make instrumentation  test that debug-toolbar, Sentry, ddtrace and others record each call once"
	@echo "make plugins          test with freezegun, pytest-asyncio, gevent, djblets and others"
	@echo "make bench            measure the cost beside Django's own backend: seven minutes"
	@echo "make clean            delete what these commands made"

demo bench stress instrumentation plugins:
	@scripts/run $@

test:
	@scripts/run check

test-all:
	@scripts/run tests

clean:
	rm -rf .venv .nox .cache .coverage .coverage.* .hypothesis .mypy_cache .pytest_cache .ruff_cache dist
