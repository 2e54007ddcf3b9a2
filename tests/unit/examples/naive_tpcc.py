"""TPC-C again, as plainly as possible: dicts of dicts, searched from end to end.

Written from the specification's text and not from the example's code, to be compared with it. Takes
its tables from a loaded server, `{table: {key: {column: value}}}`, and changes them by itself.
Refuses with (code,) where the example raises Rejected with that code.
"""

from __future__ import annotations

import copy
from typing import Any

from diptych import Db

Row = dict[str, Any]
DATA_CHARACTERS = 500


class Refused(Exception):
    pass


def dump(db: Db) -> dict[str, dict[Any, Row]]:
    """All rows of all tables, by key."""
    found: dict[str, dict[Any, Row]] = {}
    for name, table in db.tables.items():
        spec = table.layout.spec
        keys = [column.name for column in spec.keys]
        rows = [
            {column.name: getattr(row, column.name) for column in spec.columns} for row in table
        ]
        found[name] = {tuple(row[key] for key in keys): row for row in rows}
    return found


class NaiveTpcc:
    def __init__(self, tables: dict[str, dict[Any, Row]]) -> None:
        self.tables = copy.deepcopy(tables)

    def at(self, table: str, *key: int) -> Row:
        if key not in self.tables[table]:
            raise Refused("not_found")
        return self.tables[table][key]

    def all(self, table: str, **equals: Any) -> list[Row]:
        return [
            row
            for row in self.tables[table].values()
            if all(row[name] == value for name, value in equals.items())
        ]

    def customer(self, warehouse: int, district: int, number: int | None, last: str | None) -> Row:
        if number is not None:
            return self.at("customer", warehouse, district, number)
        namesakes = self.all("customer", warehouse=warehouse, district=district, last=last)
        namesakes.sort(key=lambda row: row["first"].encode())
        if not namesakes:
            raise Refused("customer_not_found")
        half, rest = divmod(len(namesakes), 2)
        return namesakes[half + rest - 1]

    def new_order(
        self,
        now: int,
        warehouse: int,
        district: int,
        customer: int,
        lines: list[tuple[int, int, int]],
    ) -> Any:
        home = self.at("warehouse", warehouse)
        place = self.at("district", warehouse, district)
        buyer = self.at("customer", warehouse, district, customer)
        for item, supplier, _ in lines:
            if (item,) not in self.tables["item"]:
                raise Refused("item_not_found")
            self.at("stock", supplier, item)
        number = place["next_order"]
        place["next_order"] += 1
        key = (warehouse, district, number)
        self.tables["order"][key] = {
            "warehouse": warehouse,
            "district": district,
            "id": number,
            "customer": customer,
            "entered": now,
            "carrier": None,
            "line_count": len(lines),
            "all_local": {supplier for _, supplier, _ in lines} == {warehouse},
        }
        self.tables["new_order"][key] = {
            "warehouse": warehouse,
            "district": district,
            "order": number,
        }
        told, total = [], 0
        for position, (item_number, supplier, quantity) in enumerate(lines):
            item = self.at("item", item_number)
            stock = self.at("stock", supplier, item_number)
            if stock["quantity"] >= quantity + 10:
                stock["quantity"] -= quantity
            else:
                stock["quantity"] = stock["quantity"] - quantity + 91
            stock["year_to_date"] += quantity
            stock["order_count"] += 1
            stock["remote_count"] += 0 if supplier == warehouse else 1
            amount = item["price"] * quantity
            total += amount
            self.tables["order_line"][(*key, position + 1)] = {
                "warehouse": warehouse,
                "district": district,
                "order": number,
                "number": position + 1,
                "item": item_number,
                "supplier": supplier,
                "delivered": None,
                "quantity": quantity,
                "amount": amount,
                "info": stock[f"dist_{district:02}"],
            }
            both = "ORIGINAL" in item["data"] and "ORIGINAL" in stock["data"]
            brand = "B" if both else "G"
            told.append((item["name"], stock["quantity"], brand, item["price"], amount))
        taxes = home["tax"] + place["tax"]
        due = total * (10_000 - buyer["discount"]) * (10_000 + taxes) // 10_000 // 10_000
        return (
            *(number, now, buyer["last"], buyer["credit"], buyer["discount"]),
            *(home["tax"], place["tax"], due, told),
        )

    def payment(
        self,
        now: int,
        warehouse: int,
        district: int,
        customer_warehouse: int,
        customer_district: int,
        amount: int,
        customer: int | None = None,
        last: str | None = None,
    ) -> Any:
        home = self.at("warehouse", warehouse)
        place = self.at("district", warehouse, district)
        payer = self.customer(customer_warehouse, customer_district, customer, last)
        home["year_to_date"] += amount
        place["year_to_date"] += amount
        payer["balance"] -= amount
        payer["year_to_date"] += amount
        payer["payment_count"] += 1
        shown = ""
        if payer["credit"] == "BC":
            numbers = (payer["id"], customer_district, customer_warehouse, district, warehouse)
            entry = "".join(f"{number} " for number in numbers) + f"{amount / 100:.2f} "
            payer["data"] = (entry + payer["data"])[:DATA_CHARACTERS]
            shown = payer["data"][:200]
        number = len(self.tables["history"]) + 1
        self.tables["history"][(number,)] = {
            "id": number,
            "customer": payer["id"],
            "customer_district": customer_district,
            "customer_warehouse": customer_warehouse,
            "district": district,
            "warehouse": warehouse,
            "date": now,
            "amount": amount,
            "data": home["name"] + " " * 4 + place["name"],
        }
        return (
            *(now, address(home), address(place)),
            *(payer[name] for name in ("id", "first", "middle", "last")),
            address(payer),
            *(payer[name] for name in ("phone", "since", "credit", "credit_limit", "discount")),
            *(payer["balance"], shown),
        )

    def order_status(
        self,
        now: int,
        warehouse: int,
        district: int,
        customer: int | None = None,
        last: str | None = None,
    ) -> Any:
        buyer = self.customer(warehouse, district, customer, last)
        who = tuple(buyer[name] for name in ("id", "first", "middle", "last", "balance"))
        orders = self.all("order", warehouse=warehouse, district=district, customer=buyer["id"])
        if not orders:
            return (*who, 0, None, None, [])
        order = max(orders, key=lambda row: row["id"])
        lines = [
            (
                *(line[name] for name in ("item", "supplier", "quantity", "amount")),
                line["delivered"],
            )
            for line in self.lines(order)
        ]
        return (*who, order["id"], order["entered"], order["carrier"], lines)

    def delivery(self, now: int, warehouse: int, carrier: int) -> Any:
        delivered = []
        for district in range(1, 11):
            waiting = self.all("new_order", warehouse=warehouse, district=district)
            if not waiting:
                delivered.append(0)
                continue
            number = min(row["order"] for row in waiting)
            del self.tables["new_order"][warehouse, district, number]
            order = self.at("order", warehouse, district, number)
            order["carrier"] = carrier
            buyer = self.at("customer", warehouse, district, order["customer"])
            for line in self.lines(order):
                line["delivered"] = now
                buyer["balance"] += line["amount"]
            buyer["delivery_count"] += 1
            delivered.append(number)
        return delivered, delivered.count(0)

    def stock_level(self, now: int, warehouse: int, district: int, threshold: int) -> int:
        next_order = self.at("district", warehouse, district)["next_order"]
        sold = {
            line["item"]
            for number in range(next_order - 20, next_order)
            for line in self.lines({"warehouse": warehouse, "district": district, "id": number})
        }
        return sum(1 for item in sold if self.at("stock", warehouse, item)["quantity"] < threshold)

    def lines(self, order: Row) -> list[Row]:
        """An order's lines by number; none where there is no such order."""
        key = (order["warehouse"], order["district"], order["id"])
        found = []
        while (*key, len(found) + 1) in self.tables["order_line"]:
            found.append(self.tables["order_line"][(*key, len(found) + 1)])
        return found


def address(row: Row) -> tuple[str, ...]:
    return tuple(row[name] for name in ("street_1", "street_2", "city", "state", "zip"))
