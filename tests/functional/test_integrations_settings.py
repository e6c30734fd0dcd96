"""`KeySettingsSource` with a real store."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any

import pytest
from pydantic import AliasChoices, Field, SecretStr, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict
from pydantic_settings.exceptions import SettingsError
from tests.functional.running import RunningStore, free_port

from dox_core_store import SyncKeyClient
from dox_core_store.integrations.pydantic_settings import FromKey, KeySettingsSource


@pytest.fixture(scope="module")
def token(shared_store: RunningStore) -> str:
    shared_store.put("settings.jules", "value-of-jules", environment="production")
    shared_store.put("settings.maps", "value-of-maps", environment="production")
    shared_store.put("settings.limits", '{"a": 1, "b": 2}', environment="production")
    shared_store.put("settings.other", "value-of-other", environment="production")
    granted = [f"settings.{name}" for name in ("jules", "maps", "limits", "absent")]
    return shared_store.issue("settings-reader", *granted)


@pytest.fixture
def client(shared_store: RunningStore, token: str) -> Iterator[SyncKeyClient]:
    with SyncKeyClient("settings-reader", token, shared_store.url) as made:
        yield made


def settings_from(client: SyncKeyClient, **fields: Any) -> BaseSettings:
    """Settings whose ``fields`` are pairs of annotation and default."""

    class ReadsKeys(BaseSettings):
        model_config = SettingsConfigDict(hide_input_in_errors=True)

        @classmethod
        def settings_customise_sources(cls, settings_cls: Any, **others: Any) -> tuple[Any, ...]:
            return (*others.values(), KeySettingsSource(settings_cls, client))

    names = {name: annotation for name, (annotation, _) in fields.items()}
    defaults = {name: default for name, (_, default) in fields.items() if default is not ...}
    body = {"__annotations__": names, "__module__": __name__, **defaults}
    return type("Settings", (ReadsKeys,), body)()


JULES = Annotated[SecretStr, FromKey("settings.jules")]


def test_fields_get_the_values_of_the_keys_they_name(client: SyncKeyClient) -> None:
    settings = settings_from(
        client,
        jules=(JULES, ...),
        maps=(SecretStr, Field(json_schema_extra={"key": "settings.maps"})),
        plain=(Annotated[str, FromKey("settings.maps.production")], ...),
        limits=(Annotated[dict[str, int], FromKey("settings.limits")], ...),
        region=(str, "eu"),
    )
    assert settings.jules.get_secret_value() == "value-of-jules"
    assert settings.maps.get_secret_value() == settings.plain == "value-of-maps"
    assert settings.limits == {"a": 1, "b": 2}
    assert settings.region == "eu"
    assert "value-of-jules" not in repr(settings)


def test_all_are_read_in_one_round_trip(shared_store: RunningStore, client: SyncKeyClient) -> None:
    settings_from(
        client,
        jules=(JULES, ...),
        maps=(Annotated[str, FromKey("settings.maps")], ...),
        limits=(Annotated[str, FromKey("settings.limits")], ...),
    )
    reads = [each for each in shared_store.export() if each["service_name"] == "settings-reader"][
        -3:
    ]
    assert len({each["request_id"] for each in reads}) == 1
    assert len({each["key_path"] for each in reads}) == 3


def test_what_an_earlier_source_gave_is_not_asked_for(
    client: SyncKeyClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTHER", "from-the-environment")
    settings = settings_from(client, other=(Annotated[str, FromKey("settings.other")], ...))
    assert settings.other == "from-the-environment"


def test_nothing_is_asked_where_no_field_names_a_key(token: str) -> None:
    with SyncKeyClient("settings-reader", token, f"http://127.0.0.1:{free_port()}") as nowhere:
        assert settings_from(nowhere, region=(str, "eu")).region == "eu"


def test_a_field_with_an_alias_is_filled(client: SyncKeyClient) -> None:
    settings = settings_from(
        client,
        first=(JULES, Field(alias="JULES_KEY")),
        second=(JULES, Field(validation_alias=AliasChoices("second_key", "other_key"))),
    )
    assert settings.first == settings.second == SecretStr("value-of-jules")


def test_each_key_that_cannot_be_had_is_named_with_its_field(client: SyncKeyClient) -> None:
    with pytest.raises(SettingsError) as caught:
        settings_from(
            client,
            jules=(JULES, ...),
            absent=(Annotated[str, FromKey("settings.absent")], "a default is no way out"),
            other=(Annotated[str, FromKey("settings.other")], ...),
        )
    said = str(caught.value)
    assert "field absent: key settings.absent: " in said
    assert "field other: key settings.other: " in said
    assert said.endswith("(not_authorized)")
    assert "field jules" not in said


def test_a_store_that_is_away_is_a_settings_error(token: str) -> None:
    nowhere = f"http://127.0.0.1:{free_port()}"
    with (
        SyncKeyClient("settings-reader", token, nowhere) as client,
        pytest.raises(SettingsError, match=r"field jules: .*\(connection_failed\)"),
    ):
        settings_from(client, jules=(JULES, ...))


def test_no_error_shows_a_value(client: SyncKeyClient) -> None:
    with pytest.raises(ValidationError) as misfit:
        settings_from(client, jules=(Annotated[int, FromKey("settings.jules")], ...))
    with pytest.raises(SettingsError, match=r"field jules: .*not JSON") as no_json:
        settings_from(client, jules=(Annotated[dict[str, int], FromKey("settings.jules")], ...))
    assert "value-of-jules" not in f"{misfit.value!s}{no_json.value!s}"
    assert no_json.value.__cause__ is None


def test_settings_whose_errors_would_show_values_are_refused(client: SyncKeyClient) -> None:
    class Careless(BaseSettings):
        jules: JULES

    with pytest.raises(SettingsError, match="hide_input_in_errors=True"):
        KeySettingsSource(Careless, client)


def test_a_field_that_names_two_keys_is_refused(client: SyncKeyClient) -> None:
    with pytest.raises(SettingsError, match="field jules names more than one key"):
        settings_from(client, jules=(JULES, Field(json_schema_extra={"key": "settings.maps"})))
