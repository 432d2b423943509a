"""The adapters of a service in its workers: which model each belongs to, and models with them."""

import warnings
from collections.abc import Mapping

from danqing.model import adapted
from danqing.model.adapter_files import Adapter
from danqing.model.files import Access
from danqing.model.folder import plain_facts
from danqing.model.model import Model
from danqing.service.engine.served import LOAD_ERRORS


class Adapters:
    """Adapters by name; they are read when they are first needed.

    sources: paths or hub ids. access: what each must satisfy.
    """

    def __init__(self, sources: Mapping[str, str], access: Access) -> None:
        self._sources, self._access = sources, access
        self._read: dict[str, Adapter] = {}

    def __bool__(self) -> bool:
        return bool(self._sources)

    def of(self, digest: str) -> dict[str, dict[str, str]]:
        """Describe the adapters of a model.

        One that cannot be read is warned of and left out.
        digest: of the weights of the model.
        """
        found = {}
        for name in self._sources:
            try:
                adapter = self._adapter(name)
            except LOAD_ERRORS as error:
                warnings.warn(f"The adapter {name} cannot be used: {error}", stacklevel=2)
                continue
            if digest and adapter.base_digest == digest:
                data = plain_facts(adapter.config.get("trained")).get("data", {})
                licence = str(data.get("licence") or "")
                found[name] = {"digest": adapter.digest, "licence": licence, "trigger": adapter.trigger}
        return found

    def added_to(self, model: Model, wanted: str) -> Model:
        """Return a model with adapters, such as "cats:0.8,gold:0.4"; raises ModelError."""
        parts = [adapted.parse(part) for part in wanted.split(",")]
        return model.with_read_adapters(
            [adapted.Weighted(self._adapter(name), weight) for name, weight in parts]
        )

    def _adapter(self, name: str) -> Adapter:
        if name not in self._read:
            self._read[name] = adapted.open_adapter(self._sources[name], self._access)
        return self._read[name]
