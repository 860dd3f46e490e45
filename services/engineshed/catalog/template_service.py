"""TemplateService over gRPC."""

from typing import Any

from grpc.aio import ServicerContext

from engineshed.api.catalog.v1 import template_service_pb2 as pb
from engineshed.api.catalog.v1.template_service_pb2_grpc import TemplateServiceServicer
from engineshed.catalog.pages import PageRequest
from engineshed.catalog.templates import Templates


class TemplateServicer(TemplateServiceServicer):
    """Interceptors validate the request and give errors their status before and after this."""

    def __init__(self, templates: Templates) -> None:
        self._templates = templates

    async def ListTemplates(
        self, request: pb.ListTemplatesRequest, context: ServicerContext[Any, Any]
    ) -> pb.ListTemplatesResponse:
        """Return a page of the templates."""
        page = self._templates.page(PageRequest.of(request.page_size, request.page_token))
        return pb.ListTemplatesResponse(templates=page.items, next_page_token=page.next_token)

    async def GetTemplate(
        self, request: pb.GetTemplateRequest, context: ServicerContext[Any, Any]
    ) -> pb.GetTemplateResponse:
        """Return one template."""
        return pb.GetTemplateResponse(template=self._templates.get(request.model_name))
