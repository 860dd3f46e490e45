"""The templates: which models may run where."""

from typing import Final

from engineshed.api.catalog.v1.template_service_pb2 import Flavor, Template
from engineshed.catalog.pages import Page, PageRequest, page_of
from engineshed.errors import DomainError, Kind

SAMPLE: Final = "engineshed/sample"

_CUSTOM: Final = Template(
    model_name="custom",
    description="Any checkpoint, named by checkpoint_id, on whatever the nodes offer.",
    flavors=[
        Flavor(flavor_name="base", description="As the checkpoint states, in its own precision.")
    ],
)


# The names that no operator's template may have.
BUILT_IN: Final = frozenset({_CUSTOM.model_name, SAMPLE})


class TemplateNotFoundError(DomainError):
    """There is no such template."""

    kind = Kind.NOT_FOUND
    reason = "TEMPLATE_NOT_FOUND"


def sample_template(checkpoint_id: str) -> Template:
    """Return the template of the sample model that comes with the platform."""
    return Template(
        model_name=SAMPLE,
        description="A small model that answers questions about Engineshed, to try the platform.",
        checkpoint_id=checkpoint_id,
        flavors=[
            Flavor(
                flavor_name="base",
                description="Full precision: the same tokens on every machine.",
                precision="float32",
            )
        ],
    )


class Templates:
    """All templates, by name."""

    def __init__(self, *further: Template) -> None:
        """Make the list of the built-in template `custom` and `further` ones."""
        self._templates = {template.model_name: template for template in (_CUSTOM, *further)}

    @property
    def checkpoints(self) -> frozenset[str]:
        """The checkpoints behind templates: every organization may serve them."""
        return frozenset(one.checkpoint_id for one in self._templates.values() if one.checkpoint_id)

    def get(self, model_name: str) -> Template:
        """Return a template.

        Raises:
            TemplateNotFoundError: there is none of this name.

        """
        try:
            return self._templates[model_name]
        except KeyError:
            raise TemplateNotFoundError(
                f"there is no template {model_name!r}; there are: {', '.join(self._templates)}",
                model_name=model_name,
            ) from None

    def page(self, page: PageRequest) -> Page[Template]:
        """Return a page of the templates, by name."""
        later = [
            (name, self._templates[name]) for name in sorted(self._templates) if name > page.after
        ]
        return page_of(later, page.size)
