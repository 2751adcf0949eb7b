"""Pages for people (one, cached whole) and JSON for the shop's own front end."""

from http import HTTPStatus

from django.http import Http404, HttpRequest, HttpResponse, JsonResponse
from django.shortcuts import get_object_or_404, render
from django.views.decorators.cache import cache_page
from django.views.decorators.http import require_GET, require_POST

from . import popularity, stock
from .cards import ProductCard, product_card
from .coupons import TooManyAttemptsError, redeem
from .models import Category, Product

PAGE_SECONDS = 10 * 60


@require_GET
@cache_page(PAGE_SECONDS)
def category(request: HttpRequest, pk: int) -> HttpResponse:
    """Show a category and its products."""
    shown = get_object_or_404(Category, pk=pk)
    return render(request, "catalog/category.html", {"category": shown})


@require_GET
def product(request: HttpRequest, pk: int) -> JsonResponse:  # noqa: ARG001 - a view
    """Show a product and count the view."""
    card = _card_or_404(pk)
    return JsonResponse(
        {
            "name": card.name,
            "price": str(card.price),
            "available": card.stock - stock.held(pk),
            "views": popularity.count_view(pk),
        }
    )


@require_GET
def popular(request: HttpRequest) -> JsonResponse:  # noqa: ARG001 - a view
    """List the products with the most views."""
    names = dict(Product.objects.values_list("pk", "name"))
    ranking = popularity.most_viewed(names)
    return JsonResponse({"popular": [names[pk] for pk, _ in ranking]})


@require_GET
def basket(request: HttpRequest) -> JsonResponse:
    """Show the visitor's basket and what it costs."""
    quantities = request.session.get("basket", {})
    cards = {pk: _card_or_404(int(pk)) for pk in quantities}
    total = sum(cards[pk].price * count for pk, count in quantities.items())
    lines = {cards[pk].name: count for pk, count in quantities.items()}
    return JsonResponse({"lines": lines, "total": str(total)})


@require_POST
def add_to_basket(request: HttpRequest, pk: int) -> JsonResponse:
    """Hold one unit of a product and put it into the visitor's basket."""
    card = _card_or_404(pk)
    try:
        stock.hold(pk, 1, card.stock)
    except stock.OutOfStockError:
        return JsonResponse({"error": "out of stock"}, status=HTTPStatus.CONFLICT)
    quantities = request.session.setdefault("basket", {})
    quantities[str(pk)] = quantities.get(str(pk), 0) + 1
    request.session.modified = True
    return JsonResponse({"name": card.name}, status=HTTPStatus.CREATED)


@require_POST
def coupon(request: HttpRequest) -> JsonResponse:
    """Tell what a coupon code is worth."""
    try:
        percent = redeem(request.POST.get("code", ""), request.META["REMOTE_ADDR"])
    except TooManyAttemptsError:
        error = {"error": "too many attempts"}
        return JsonResponse(error, status=HTTPStatus.TOO_MANY_REQUESTS)
    if percent is None:
        return JsonResponse({"error": "no such code"}, status=HTTPStatus.NOT_FOUND)
    return JsonResponse({"percent": percent})


def _card_or_404(pk: int) -> ProductCard:
    try:
        return product_card(pk)
    except Product.DoesNotExist as error:
        raise Http404 from error
