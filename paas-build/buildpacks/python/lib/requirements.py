"""Prints the dependencies that pyproject.toml lists; exits with 3 where only building the project tells them."""
import sys

try:
    import tomllib
except ImportError:  # before Python 3.11
    from pip._vendor import tomli as tomllib

with open("pyproject.toml", "rb") as file:
    try:
        project = tomllib.load(file).get("project", {})
    except tomllib.TOMLDecodeError as error:
        sys.exit(f"pyproject.toml: {error}")

if not project or "dependencies" in project.get("dynamic", []):
    sys.exit(3)
print("\n".join(project.get("dependencies", [])))
