import dataclasses, typing
@dataclasses.dataclass(order=True)
class Point:
    x: int
    y: typing.Optional[int] = None
print(Point(1), Point(1) < Point(2, 3), dataclasses.asdict(Point(1)), typing.get_type_hints(Point))
