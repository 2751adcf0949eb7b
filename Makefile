.PHONY: help demo bench test stress test-all instrumentation clean

help:
	@echo "make demo             a small Django site, its tests, and one memcached: see it work"
	@echo "make bench            what a namespace costs, beside Django's own backend: five minutes"
	@echo "make test             lint, types and tests on the default interpreter"
	@echo "make stress           long histories of many processes, with kills, held to the promise"
	@echo "make test-all         the tests on every supported Django and Python"
	@echo "make instrumentation  debug-toolbar, Sentry, ddtrace and others see each call once"
	@echo "make clean            remove what these made"

demo bench test stress test-all instrumentation:
	@scripts/run $@

clean:
	rm -rf .venv .nox .cache .coverage .coverage.* .hypothesis .mypy_cache .pytest_cache .ruff_cache dist
