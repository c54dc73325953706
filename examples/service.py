"""A service of plain asyncio: two regions, tenants that never meet, and events that say what is no longer true.

python examples/service.py
"""

from __future__ import annotations

import asyncio
from typing import Any

from tiercast import CacheConfig, CacheManager, EventBasedInvalidation, ScopeConfig, ScopeLevel

CONFIG = CacheConfig(
    name="shop",
    distributed=None,  # a deployment names its Redis here
    regions={"reports": {"ttl": 3600, "grace": 600}, "sessions": {"ttl": 60, "sliding": True}},
    scopes=ScopeConfig([ScopeLevel("organization", "org_id", [ScopeLevel("user", "user_id")])]),
    invalidation=[
        EventBasedInvalidation(
            {
                "order.placed": ["tag:orders:{org_id}"],
                "user.renamed": ["scope:organization:{org_id}/user:{user_id}"],
            }
        )
    ],
)


class Database:
    """Stands for what is slow."""

    def __init__(self) -> None:
        self.orders = {"acme": 10, "umbrella": 20}
        self.names = {("acme", 7): "Ada"}
        self.questions = 0

    async def count_orders(self, org_id: str) -> int:
        self.questions += 1
        await asyncio.sleep(0.01)
        return self.orders[org_id]

    async def name_of(self, org_id: str, user_id: int) -> str:
        self.questions += 1
        await asyncio.sleep(0.01)
        return self.names[org_id, user_id]


class Service:
    """What handles requests; one cache for all of them."""

    def __init__(self, cache: CacheManager, database: Database) -> None:
        self.cache = cache
        self.database = database

    async def report(self, org_id: str) -> dict[str, Any]:
        """A report of one organization; everything inside the block happens in the region "reports"."""
        async with self.cache.cache_context_async("reports"):
            orders = await self.cache.get_or_set_async(
                f"orders:{org_id}", lambda: self.database.count_orders(org_id), tags=[f"orders:{org_id}"]
            )
        return {"organization": org_id, "orders": orders}

    async def greeting(self, org_id: str, user_id: int) -> str:
        """The view is confined to one user: its keys, tags and `clear()` reach nobody else."""
        view = self.cache.scoped("user", org_id=org_id, user_id=user_id)
        name = await view.get_or_set_async("name", lambda: self.database.name_of(org_id, user_id))
        return f"Hello, {name}!"

    async def place_order(self, org_id: str) -> None:
        """Commit first, then say so."""
        self.database.orders[org_id] += 1
        await self.cache.handle_event_async("order.placed", {"org_id": org_id})

    async def rename(self, org_id: str, user_id: int, name: str) -> None:
        self.database.names[org_id, user_id] = name
        await self.cache.handle_event_async("user.renamed", {"org_id": org_id, "user_id": user_id})


async def main() -> None:
    database = Database()
    async with CacheManager(CONFIG) as cache:
        service = Service(cache, database)
        reports = await asyncio.gather(*(service.report("acme") for _ in range(100)))
        print(f"100 reports, {database.questions} question: {reports[0]}")
        await service.report("umbrella")
        await service.place_order("acme")
        print("after the order:", await service.report("acme"))
        print("the other's is still cached:", cache.contains("orders:umbrella", region="reports"))
        print(await service.greeting("acme", 7))
        await service.rename("acme", 7, "Grace")
        print(await service.greeting("acme", 7))


if __name__ == "__main__":
    asyncio.run(main())
