"""The pages of the catalog."""

from django.urls import path

from . import views

app_name = "catalog"

urlpatterns = [
    path("categories/<int:pk>/", views.category, name="category"),
    path("products/<int:pk>/", views.product, name="product"),
    path("popular/", views.popular, name="popular"),
    path("basket/", views.basket, name="basket"),
    path("basket/<int:pk>/", views.add_to_basket, name="add-to-basket"),
    path("coupon/", views.coupon, name="coupon"),
]
