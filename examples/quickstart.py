"""The example of the README."""

from tiercast import CacheManager, cached

cache = CacheManager.get_instance()
prices = {"tea": 3, "coffee": 4}  # a slow database


@cached(key="price:{item}", ttl=60, tags=["prices"])
def price(item: str) -> int:
    print("asking for", item)
    return prices[item]


print(price("tea"), price("tea"))  # asks once
prices["tea"] = 5
cache.invalidate_tags(["prices"])  # from here on, no process serves the old price
print(price("tea"))  # asks again
