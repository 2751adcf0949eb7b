"""The shop's tables in the database."""

from django.db import models


class Category(models.Model):
    """A shelf of products."""

    name = models.CharField(max_length=60)

    class Meta:
        verbose_name_plural = "categories"
        ordering = ("name",)

    def __str__(self) -> str:
        return self.name


class Product(models.Model):
    """A product for sale."""

    category = models.ForeignKey(
        Category, on_delete=models.CASCADE, related_name="products"
    )
    name = models.CharField(max_length=60)
    price = models.DecimalField(max_digits=8, decimal_places=2)
    stock = models.PositiveIntegerField(default=0)

    class Meta:
        ordering = ("name",)

    def __str__(self) -> str:
        return self.name


class Coupon(models.Model):
    """A code that gives a discount."""

    code = models.CharField(max_length=20, unique=True)
    percent = models.PositiveSmallIntegerField()

    def __str__(self) -> str:
        return self.code
