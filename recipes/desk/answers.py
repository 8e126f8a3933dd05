"""What the desk answers: a label line, and one sentence that uses what the customer said."""

from __future__ import annotations

SYSTEM = """You answer the mail of Fern & Kiln, a small shop for handmade pottery. Reply in two lines.
Line 1 is the topic of the message, one of these words and nothing else:
delivery: the parcel is late or lost
damaged: something arrived broken
refund: the customer wants money back
exchange: the customer wants another item instead
change: alter or cancel an order that was not sent yet
payment: card, invoice, voucher, price charged
product: size, material, care of an item
stock: can an item be bought now or later
Line 2 is one friendly sentence for the customer. Name the item and the order number if the customer gave them."""

OPENINGS = {
    "delivery": ("I am sorry your {p} is late", "I am sorry your parcel is late"),
    "damaged": ("I am sorry your {p} is damaged", "I am sorry your order came damaged"),
    "refund": ("You can return your {p} for a refund", "You can return your order for a refund"),
    "exchange": ("We will gladly exchange your {p}", "We will gladly exchange your item"),
    "change": ("We can still change your order of the {p}", "We can still change your order"),
    "payment": ("I am sorry about the payment for your {p}", "I am sorry about the payment"),
    "product": ("Thank you for asking about the {p}", "Thank you for asking about our pottery"),
    "stock": ("Our {p} comes in small batches", "Our pottery comes in small batches"),
}
"""How the sentence begins: with a product, and without."""

CLOSINGS = {
    "delivery": ("I am tracing order {o} today", "please send me the order number and I will trace it"),
    "damaged": ("I will replace order {o} at once", "please send me the order number and a photo"),
    "refund": ("I have started the return of order {o}", "please send me the order number and I will start the return"),
    "exchange": ("I have noted the swap for order {o}", "please send me the order number and the item you want"),
    "change": ("I am updating order {o} now", "please send me the order number and I will update it"),
    "payment": ("I am checking the payment of order {o}", "please send me the order number and I will check it"),
    "product": ("I will send you its care sheet for order {o}", "I will send you the care sheet with all details"),
    "stock": ("I will write to you about order {o}", "I will write to you when the next one is ready"),
}
"""How it ends: with an order number, and without."""


def answer(label: str, *, product: str, order: str) -> str:
    """The desk's answer: the label on a line of its own, then the sentence. Empty `product` or `order` means none was given."""
    opening = OPENINGS[label][0 if product else 1].format(p=product)
    closing = CLOSINGS[label][0 if order else 1].format(o=order)
    return f"{label}\n{opening}, {closing}."
