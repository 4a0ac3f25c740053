def test_x(service, sample):
    print(service.predict(sample.rows[:3]))
    print(service.metrics())
