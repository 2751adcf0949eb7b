"""Creates the tables of the catalog."""

from typing import ClassVar

import django.db.models.deletion
from django.db import migrations, models

PRIMARY_KEY = models.BigAutoField(
    auto_created=True, primary_key=True, serialize=False, verbose_name="ID"
)


class Migration(migrations.Migration):
    """Categories, products and coupons."""

    initial = True

    dependencies: ClassVar = []

    operations: ClassVar = [
        migrations.CreateModel(
            name="Category",
            fields=[
                ("id", PRIMARY_KEY.clone()),
                ("name", models.CharField(max_length=60)),
            ],
            options={"verbose_name_plural": "categories", "ordering": ("name",)},
        ),
        migrations.CreateModel(
            name="Coupon",
            fields=[
                ("id", PRIMARY_KEY.clone()),
                ("code", models.CharField(max_length=20, unique=True)),
                ("percent", models.PositiveSmallIntegerField()),
            ],
        ),
        migrations.CreateModel(
            name="Product",
            fields=[
                ("id", PRIMARY_KEY.clone()),
                ("name", models.CharField(max_length=60)),
                ("price", models.DecimalField(decimal_places=2, max_digits=8)),
                ("stock", models.PositiveIntegerField(default=0)),
                (
                    "category",
                    models.ForeignKey(
                        on_delete=django.db.models.deletion.CASCADE,
                        related_name="products",
                        to="catalog.category",
                    ),
                ),
            ],
            options={"ordering": ("name",)},
        ),
    ]
