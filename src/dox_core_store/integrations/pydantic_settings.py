"""A source for ``pydantic-settings``: fields that name a key get its value.

::

    from typing import Annotated, Any

    from pydantic import Field, SecretStr
    from pydantic_settings import BaseSettings, SettingsConfigDict

    from dox_core_store import SyncKeyClient
    from dox_core_store.integrations.pydantic_settings import FromKey, KeySettingsSource

    client = SyncKeyClient("jules-mcp")

    class Settings(BaseSettings):
        model_config = SettingsConfigDict(hide_input_in_errors=True)

        region: str = "eu"
        jules_api: Annotated[SecretStr, FromKey("service_keys.jules_api")]
        maps: SecretStr = Field(json_schema_extra={"key": "service_keys.maps"})

        @classmethod
        def settings_customise_sources(cls, settings_cls: Any, **others: Any) -> tuple[Any, ...]:
            return (*others.values(), KeySettingsSource(settings_cls, client))

    settings = Settings()
    assert settings.jules_api.get_secret_value()

All keys are read in one round trip, and only those that no earlier source gave: what is set in the
environment of a developer or a test asks no store. A key that cannot be had is an error, also where
the field has a default. Values are those of that moment; what must follow a change asks the client.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource
from pydantic_settings.exceptions import SettingsError

from dox_core_store.client import SyncKeyClient
from dox_core_store.errors import DoxStoreError

__all__ = ["FromKey", "KeySettingsSource"]


class FromKey(NamedTuple):
    """Marks a field, in its ``Annotated``, as the value of ``key_path``."""

    key_path: str


class KeySettingsSource(PydanticBaseSettingsSource):
    """See the module. Raises ``SettingsError``, which says which fields' keys cannot be had."""

    def __init__(self, settings_cls: type[BaseSettings], client: SyncKeyClient) -> None:
        super().__init__(settings_cls)
        self._client = client
        if not settings_cls.model_config.get("hide_input_in_errors"):
            # Else pydantic quotes a value that does not fit its field, also that of a SecretStr.
            raise SettingsError(
                f"{settings_cls.__name__} reads keys, so its model_config has to say "
                "hide_input_in_errors=True: its errors would show their values"
            )

    def get_field_value(self, field: FieldInfo, field_name: str) -> tuple[Any, str, bool]:
        """The one field's value, by a request of its own; what the base class asks for."""
        path = _path_of(field, field_name)
        if path is None:
            return None, field_name, False
        return self._values({field_name: path})[field_name], field_name, False

    def __call__(self) -> dict[str, Any]:
        fields = self.settings_cls.model_fields
        wanted = {
            name: path
            for name, field in fields.items()
            if (path := _path_of(field, name)) is not None
            and not {name, _input_name(field, name)} & self.current_state.keys()
        }
        values = self._values(wanted) if wanted else {}
        return {
            _input_name(fields[name], name): self._decoded(name, fields[name], value)
            for name, value in values.items()
        }

    def _values(self, wanted: dict[str, str]) -> dict[str, str]:
        try:
            keys = self._client.get_keys(wanted.values())
        except DoxStoreError as error:
            errors = error.errors or dict.fromkeys(wanted.values(), error)
            lines = [
                f"field {name}: key {path}: {errors[path].detail} ({errors[path].code})"
                for name, path in wanted.items()
                if path in errors
            ]
            raise SettingsError("; ".join(lines)) from error
        return {name: keys[path].value for name, path in wanted.items()}

    def _decoded(self, name: str, field: FieldInfo, value: str) -> Any:
        """``value``, or what it says in JSON where the field is no simple one."""
        try:
            return self.prepare_field_value(name, field, value, value_is_complex=False)
        except ValueError:  # it holds the text that it could not read
            raise SettingsError(f"field {name}: the key's value is not JSON") from None


def _path_of(field: FieldInfo, name: str) -> str | None:
    marks = [each.key_path for each in field.metadata if isinstance(each, FromKey)]
    extra = field.json_schema_extra
    if isinstance(extra, dict) and "key" in extra:
        marks.append(str(extra["key"]))
    if len(marks) > 1:
        raise SettingsError(f"field {name} names more than one key: {', '.join(marks)}")
    return marks[0] if marks else None


def _input_name(field: FieldInfo, name: str) -> str:
    """What the field is called in the input of the model."""
    alias = field.validation_alias or field.alias
    if isinstance(alias, str):
        return alias
    first = alias.choices[0] if alias is not None and hasattr(alias, "choices") else None
    return first if isinstance(first, str) else name
