"""The FastAPI application: GET / is the page, /api/... answers programs, /docs describes it."""
import base64
import hashlib
import os
import re

from common.core.errors import InputError, one_line
from common.core.probabilities import THRESHOLD, check_threshold
from common.serving.answers import AttentionMaps, ModelInfo, Prediction, Refused

PAGE = os.path.join(os.path.dirname(os.path.abspath(__file__)), 'page.html')
# The script and the style of /docs come from FastAPI's host; without it /docs stays empty.
DOCS_HOST = 'https://cdn.jsdelivr.net'
DOCS_SOURCES = {'script-src': [DOCS_HOST], 'style-src': ["'unsafe-inline'", DOCS_HOST],
                'img-src': ['data:']}
HEAD = re.compile(r'mean|all|-?\d{1,4}', re.ASCII)


def make_app(service):
    """The application of a Service. A Guard must stand before it."""
    from fastapi import FastAPI

    app = FastAPI(title=service.info().name, docs_url=None, redoc_url=None,
                  description='Classifies pictures, and says where the model looks.')
    add_pages(app)
    add_api(app, service)
    add_errors(app)
    return app


def add_pages(app):
    """The pages for people: / and /docs."""
    from fastapi.openapi.docs import get_swagger_ui_html

    with open(PAGE, encoding='utf-8') as file:
        page = file.read()
    docs = get_swagger_ui_html(openapi_url='/openapi.json', title=f'{app.title}: API',
                               swagger_favicon_url='data:,').body.decode()
    add_page(app, '/', page, content_security_policy(page))
    add_page(app, '/docs', docs, content_security_policy(docs, DOCS_SOURCES))


def add_page(app, path, html, policy):
    from fastapi.responses import HTMLResponse

    @app.get(path, include_in_schema=False)
    async def answer():
        return HTMLResponse(html, headers={'Content-Security-Policy': policy})


def content_security_policy(html, more_sources=None):
    """A policy that lets in a page's own inline scripts and styles, by their hash, and nothing of
    other hosts.

    Args:
        html: text of the page.
        more_sources: {directive: list of sources} to add to script-src, style-src or img-src.
    """
    sources = {'img-src': ["'self'", 'blob:', 'data:']}
    for tag in ('script', 'style'):
        sources[f'{tag}-src'] = [hash_source(text) for text in
                                 re.findall(rf'<{tag}>(.*?)</{tag}>', html, re.DOTALL)]
    for directive, added in (more_sources or {}).items():
        sources[directive] += added
    directives = ["default-src 'self'", "object-src 'none'", "base-uri 'none'",
                  "form-action 'none'", "frame-ancestors 'none'"]
    directives += [f'{name} {" ".join(values)}' for name, values in sources.items()]
    return '; '.join(directives)


def hash_source(text):
    """An inline script or style as a source of a content security policy."""
    digest = hashlib.sha256(text.encode()).digest()
    return f"'sha256-{base64.b64encode(digest).decode()}'"


def add_api(app, service):
    """The routes for programs. Their docstrings, names and types are what /docs shows."""
    from fastapi import Request, UploadFile

    @app.get('/api/model')
    async def model() -> ModelInfo:
        """What the model is, and what it takes."""
        return service.info()

    @app.post('/api/predict')
    async def predict(request: Request, file: UploadFile, topk: int = 5,
                      threshold: float = THRESHOLD) -> Prediction:
        """The `topk` most probable classes of a picture; of a multi-label model those with a
        probability of `threshold` and more."""
        if topk < 1:
            raise Refused(422, f'topk: got {topk}, expected at least 1')
        check_threshold('threshold', threshold)
        return await service.run(request, service.predict, file, topk, threshold)

    @app.post('/api/attention')
    async def attention(request: Request, file: UploadFile, layer: int = -1,
                        head: str = 'mean') -> AttentionMaps:
        """Where a layer looks: `layer` from 0, negative from the end; `head` a number, `mean` or
        `all`. A map lies over `box`, the part of the picture that the model sees."""
        if not HEAD.fullmatch(head):
            raise Refused(422, "head: expected a number, 'mean' or 'all'")
        count = len(service.heads)
        if not count:
            raise Refused(422, 'layer: an exported graph has no attention to show')
        if not -count <= layer < count:
            raise Refused(422, f'layer: got {layer}, expected {-count} to {count - 1}')
        return await service.run(request, service.attention, file, layer, head)


def add_errors(app):
    """Every error is answered as {"detail": one line}."""
    from fastapi.exceptions import RequestValidationError
    from fastapi.responses import JSONResponse

    def error(status, detail):
        headers = {'Retry-After': '1'} if status == 503 else None
        return JSONResponse({'detail': detail}, status, headers)

    @app.exception_handler(Refused)
    async def refused(request, exception):
        return error(exception.status, str(exception))

    @app.exception_handler(InputError)
    async def wrong_input(request, exception):
        return error(422, str(exception))

    @app.exception_handler(RequestValidationError)
    async def wrong_fields(request, exception):
        first = exception.errors()[0]
        return error(422, f'{first["loc"][-1]}: {one_line(first["msg"])}')

    @app.exception_handler(Exception)
    async def failed(request, exception):  # the log has the traceback
        return error(500, 'the server has failed; its log says why')
