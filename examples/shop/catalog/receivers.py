"""Keeps product cards in step with the database."""

from functools import partial

from django.db import transaction
from django.db.models.signals import post_delete, post_save
from django.dispatch import receiver

from .cards import drop_card
from .models import Product


@receiver([post_save, post_delete], sender=Product)
def drop_card_after_commit(instance: Product, **_: object) -> None:
    """Drop the card of a product that was saved or deleted.

    This happens after the commit. Before it, another request would read the old row
    and cache it again. A `TestCase` never commits, so the cards of its products stay
    in the cache.
    """
    transaction.on_commit(partial(drop_card, instance.pk))
