"""What if some operators were faster?"""
