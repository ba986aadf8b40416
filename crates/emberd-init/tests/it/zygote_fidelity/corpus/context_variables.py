import contextvars, decimal
print(list(contextvars.copy_context()))
print(decimal.getcontext())
decimal.getcontext().prec = 5
print(decimal.Decimal(1) / 3)
with decimal.localcontext() as context:
    context.prec = 2
    print(decimal.Decimal(1) / 3)
